"""What the adapters of pretrained encoders share: loading once, reading on the right device, prompts to tokens.

The encoder is frozen and no part of the model: it is neither in checkpoints nor averaged, and all copies of a
conditioner read with the same one. Weights come from a local folder or, where there is a network, from the
hub of transformers. The model `toy` is a few thousand random weights over bytes, for trying things out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from vidiff.lazy import prepare_torchvision
from vidiff.precision import no_autocast

TOY = "toy"

REMEDY = 'pip install -e ".[hub]"'


class Pretrained(nn.Module):
    """A frozen encoder of transformers, from a folder or the hub."""

    name = ""
    """The registered name, for messages."""

    def __init__(self, model: str, drop: float):
        """Raises ValueError when transformers or the model cannot be had."""
        super().__init__()
        if not model:
            raise ValueError(f"conditioner={self.name} needs model: a folder of save_pretrained, or a hub name.")
        self.model, self.drop = model, drop
        self.hidden = self.width_of(self.told(lambda: self.config(model)))

    def told(self, load):
        """load(), its failures in one line."""
        try:
            return load()
        except ImportError as error:
            raise ValueError(f"conditioner={self.name} needs transformers ({error}): {REMEDY}.") from None
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"conditioner={self.name}: model {self.model!r} cannot be had: {reason}") from None

    def config(self, model: str) -> Any:
        """The encoder's configuration: small, without weights."""
        raise NotImplementedError

    def width_of(self, config: Any) -> int:
        """The width of its hidden states."""
        raise NotImplementedError

    def encoder_class(self, config: Any) -> Any:
        """The class of transformers that reads such weights."""
        raise NotImplementedError

    def encoder(self, device: torch.device) -> nn.Module:
        """The frozen encoder on this device, the same for all copies of this conditioner."""
        return self.told(lambda: loaded(type(self), self.model, str(device)))


class PretrainedText(Pretrained):
    """Prompts to the last hidden states of a frozen encoder; the null condition is the empty text."""

    reads = frozenset({"text"})

    def __init__(self, model: str, length: int, drop: float):
        """Raises ValueError when transformers or the model cannot be had."""
        super().__init__(model, drop)
        self.length = length

    def encode(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor, Any]:
        """Texts -> hidden states (B,L,K), mask (B,L) bool, and the encoder's whole answer. No gradient, no AMP."""
        encoder, tokenizer = self.encoder(device), self.told(lambda: words_of(self.model))
        words = tokenizer(
            list(texts), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        ).to(device)
        with torch.no_grad(), no_autocast(device):
            answer = encoder(input_ids=words["input_ids"], attention_mask=words["attention_mask"])
        return answer.last_hidden_state.float(), words["attention_mask"].bool(), answer

    def prompts(self, batch: Any, drop: Tensor) -> list[str]:
        """The texts of a batch, empty where they are dropped. Raises ValueError without texts."""
        if "text" not in batch:
            raise ValueError(f"conditioner={self.name}: the batch has no text. Give one per sample (--prompt).")
        return ["" if dropped else text for text, dropped in zip(batch["text"], drop.tolist(), strict=True)]


@lru_cache(maxsize=4)
def loaded(adapter: type[Pretrained], model: str, device: str) -> nn.Module:
    """The frozen encoder on this device."""
    prepare_torchvision()
    config = adapter.config(adapter, model)
    encoder_class = adapter.encoder_class(adapter, config)
    if model == TOY:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            encoder = encoder_class(config)
    else:
        encoder = encoder_class.from_pretrained(model)
    return encoder.float().to(device).eval().requires_grad_(False)


@lru_cache(maxsize=4)
def words_of(model: str) -> Any:
    """The tokenizer of a model; bytes for the toy."""
    prepare_torchvision()
    import transformers

    return transformers.ByT5Tokenizer() if model == TOY else transformers.AutoTokenizer.from_pretrained(model)
