"""CLIP and T5 adapters against transformers itself, from folders that save_pretrained wrote; no network."""

import json

import pytest
import torch

import zoo.conditioners  # noqa: F401
from vidiff.lazy import prepare_torchvision
from vidiff.registry import CONDITIONERS

pytest.importorskip("transformers", reason="the hub extra is not installed: pip install -e '.[hub]'")
prepare_torchvision()
import tokenizers  # noqa: E402
import transformers  # noqa: E402

TEXTS = ["a seven", "", "0 and 3"]
KEEP = torch.zeros(3, dtype=torch.bool)


@pytest.fixture
def clip(tmp_path):
    """A toy CLIP text encoder of another size than its neighbours, with a tokenizer of letters."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789")
    marks = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {t: i for i, t in enumerate([*letters, *(c + "</w>" for c in letters), *marks])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary), hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=3,
        max_position_embeddings=11, bos_token_id=start, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    torch.manual_seed(0)
    encoder = transformers.CLIPTextModel(config).eval()
    encoder.save_pretrained(tmp_path)
    tokenizer = transformers.CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    tokenizer.save_pretrained(tmp_path)
    return tmp_path, encoder, tokenizer


@pytest.fixture(params=["T5", "UMT5"])
def t5(tmp_path, request):
    """A toy T5 or UMT5 encoder with a tokenizer of words that ends every text, as theirs do."""
    words = {w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", "a", "seven", "and", "0", "3"])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    make = {"vocab_size": len(words), "d_model": 20, "d_kv": 6, "d_ff": 28, "num_layers": 2, "num_heads": 2}
    config = getattr(transformers, f"{request.param}Config")(**make)
    torch.manual_seed(0)
    encoder = getattr(transformers, f"{request.param}EncoderModel")(config).eval()
    encoder.save_pretrained(tmp_path)
    marks = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **marks)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path, encoder, tokenizer


def expected(encoder, tokenizer, texts, length):
    words = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return encoder(**words), words["attention_mask"].bool()


def test_clip_gives_transformers_own_states(clip):
    folder, encoder, tokenizer = clip
    conditioner = CONDITIONERS["text_clip"].build({"model": str(folder), "length": 11}, width=32)
    answer, mask = expected(encoder, tokenizer, TEXTS, 11)
    cond = conditioner({"text": TEXTS}, KEEP)
    assert conditioner.spec.tokens == 24 and conditioner.spec.vector == 32 and conditioner.spec.length == 11
    assert torch.allclose(cond.tokens, answer.last_hidden_state, atol=1e-6) and torch.equal(cond.mask, mask)
    assert torch.allclose(cond.vector, conditioner.pooled(answer.pooler_output), atol=1e-6)


def test_t5_gives_transformers_own_states(t5):
    folder, encoder, tokenizer = t5
    conditioner = CONDITIONERS["text_t5"].build({"model": str(folder), "length": 13})
    answer, mask = expected(encoder, tokenizer, TEXTS, 13)
    cond = conditioner({"text": TEXTS}, KEEP)
    assert conditioner.spec.provides == {"tokens"} and conditioner.spec.tokens == 20
    assert torch.allclose(cond.tokens, answer.last_hidden_state, atol=1e-6) and torch.equal(cond.mask, mask)
    assert cond.vector is None


def test_the_null_condition_is_the_empty_text(t5):
    conditioner = CONDITIONERS["text_t5"].build({"model": str(t5[0]), "length": 13})
    cond = conditioner({"text": TEXTS}, torch.tensor([True, False, False]))
    assert torch.equal(cond.tokens[0], cond.tokens[1]) and torch.equal(cond.mask[0], cond.mask[1])


@pytest.mark.parametrize(("gives", "routes"), [("tokens", {"tokens"}), ("vector", {"vector"})])
def test_clips_routes_are_a_setting(gives, routes):
    conditioner = CONDITIONERS["text_clip"].build({"model": "toy", "length": 9, "gives": gives}, width=32)
    cond = conditioner({"text": TEXTS}, KEEP)
    assert {r for r in ("vector", "tokens") if getattr(cond, r) is not None} == routes == conditioner.spec.provides


@pytest.mark.parametrize("name", ["text_clip", "text_t5"])
def test_the_encoder_is_frozen_and_no_part_of_the_model(name):
    conditioner = CONDITIONERS[name].build({"model": "toy", "length": 9}, width=32)
    before = set(conditioner.state_dict())
    cond = conditioner({"text": TEXTS}, KEEP)
    assert set(conditioner.state_dict()) == before <= {"pooled.weight", "pooled.bias"}
    assert not cond.tokens.requires_grad
    assert conditioner.to("meta")({"text": TEXTS}, KEEP.to("meta")).tokens.shape == cond.tokens.shape


@pytest.mark.parametrize("name", ["text_clip", "text_t5"])
def test_what_cannot_be_had_is_one_line(name, tmp_path):
    (tmp_path / "config.json").write_text("{")
    for model in ("", str(tmp_path)):
        with pytest.raises(ValueError, match=f"conditioner={name}") as error:
            CONDITIONERS[name].build({"model": model}, width=32)
        assert "\n" not in str(error.value)


def test_another_family_is_refused(clip):
    with pytest.raises(ValueError, match="family clip_text_model; text_t5 reads t5 and umt5"):
        CONDITIONERS["text_t5"].build({"model": str(clip[0])})
