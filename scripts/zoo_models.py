"""What `model_zoo.py` tries: our nets, and transformers' and torchvision's where installed."""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["HF_HUB_OFFLINE"] = "1"
Build = Callable[[], nn.Module]
Example = Callable[[], Tensor]
TOKENS = partial(torch.randint, 0, 99, (2, 12))


def zoo() -> list[tuple[str, Build, Example]]:
    """(name, what builds it with random weights, what draws a batch of two), of each model."""
    entries = [*ours()]
    if importlib.util.find_spec("transformers"):
        entries += from_transformers()
    if importlib.util.find_spec("torchvision"):
        seen = importlib.import_module("torchvision.models")
        names = seen.list_models(module=seen)
        entries += [(name, partial(seen.get_model, name), image(224)) for name in names]
    return entries


def built(build: Build, example: Example) -> nn.Module:
    """The model in eval mode; its BatchNorms know a batch, or signals would fade on the way."""
    torch.manual_seed(0)
    model = build().eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.train().momentum = None  # the mean over all batches: of one, its own statistics
    with torch.no_grad():
        model(example())
    return model.eval()


def ours() -> Iterator[tuple[str, Build, Example]]:
    """Nets of `models/`, small."""
    from models import lstm, senet, ssd, transformer, unet, yolo

    encoder = partial(transformer.TransformerClassifier, 99, width=64)
    yield "yolo", yolo.yolo, image(64)
    yield "unet", partial(unet.unet, width=16), image(32)
    yield "ssd", ssd.ssd, image(64)
    yield "senet", senet.senet, image(64)
    yield "lstm", partial(lstm.LstmLanguageModel, 99, width=32), TOKENS
    yield "transformer", encoder, TOKENS
    yield "transformer, nn.MultiheadAttention", partial(encoder, torch_attention=True), TOKENS


def from_transformers() -> Iterator[tuple[str, Build, Example]]:
    """Small configurations, with both ways in which transformers computes an attention."""
    import transformers as hf
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sight, sound = {"image_size": 32, "patch_size": 8}, {"max_source_positions": 20}
    for way in ("eager", "sdpa"):
        for build, config, more, example in (
            (hf.BertModel, hf.BertConfig, {}, TOKENS),
            (hf.BertForSequenceClassification, hf.BertConfig, {}, TOKENS),
            (hf.DistilBertModel, hf.DistilBertConfig, {}, TOKENS),
            (hf.ViTModel, hf.ViTConfig, sight, image(32)),
            (hf.Wav2Vec2Model, hf.Wav2Vec2Config, {}, lambda: torch.randn(2, 1600)),
            (WhisperEncoder, hf.WhisperConfig, sound, lambda: torch.randn(2, 80, 40)),
        ):
            settled = config(**size, **more, attn_implementation=way)
            yield f"{build.__name__}, {way}", partial(build, settled), example


def image(size: int) -> Example:
    """RGB images of standard normal pixels."""
    return partial(torch.randn, 2, 3, size, size)
