"""Unregistered leaves that components are built from."""
