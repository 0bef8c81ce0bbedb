"""What the tools do; each module has `main(argv) -> exit code`."""
