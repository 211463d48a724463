"""Sequence models: BERT-base, MiniLM-L6, a GPT-2-style decoder with KV cache, a bidirectional LSTM, and a tiny MLP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import Net, shake


class Decoder(nn.Module):
    """GPT-2: `layers` blocks with pre-norm, tanh GELU and tied embeddings.

    Inputs: ids (batch, new), past keys and values (layers, 2, batch, heads, past, width / heads). Outputs: logits (batch, new, vocabulary) and the
    keys and values of past and new tokens.
    """

    def __init__(self, layers: int, width: int, heads: int, vocabulary: int, positions: int) -> None:
        super().__init__()
        self.layers, self.heads = layers, heads
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        make = lambda: nn.ModuleDict(
            {
                "norm1": nn.LayerNorm(width),
                "qkv": nn.Linear(width, 3 * width),
                "out": nn.Linear(width, width),
                "norm2": nn.LayerNorm(width),
                "up": nn.Linear(width, 4 * width),
                "down": nn.Linear(4 * width, width),
            }
        )
        self.blocks = nn.ModuleList([make() for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.register_buffer("mask", torch.ones(positions, positions, dtype=torch.bool).tril(), persistent=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, 0.0, 0.04 if width > 256 else 0.1)

    def forward(self, ids: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        batch, new = ids.shape
        before = past.shape[4]
        x = self.tokens(ids) + self.places(torch.arange(new, device=ids.device) + before)
        mask = self.mask[before : before + new, : before + new]
        present = []
        for i, block in enumerate(self.blocks):
            q, k, v = block["qkv"](block["norm1"](x)).view(batch, new, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            k, v = torch.cat([past[i, 0], k], 2), torch.cat([past[i, 1], v], 2)
            present.append(torch.stack([k, v]))
            scores = (q @ k.transpose(-1, -2)) / (q.shape[-1] ** 0.5)
            weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
            x = x + block["out"]((weights @ v).transpose(1, 2).reshape(batch, new, -1))
            x = x + block["down"](F.gelu(block["up"](block["norm2"](x)), approximate="tanh"))
        return self.norm(x) @ self.tokens.weight.t(), torch.stack(present)


class BiLSTM(nn.Module):
    """Two bidirectional layers and a linear classifier per step."""

    def __init__(self, features: int, width: int, classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, width, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


class Encoder(nn.Module):
    """A transformers encoder that takes and returns tensors only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids, return_dict=False)[0]


def _encoder(length: int, dynamic: bool, **config: int) -> Net:
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(initializer_range=0.04, **config), add_pooling_layer=False)
    ids = torch.randint(0, model.config.vocab_size, (2, length))
    names = ("input_ids", "attention_mask", "token_type_ids")
    if not dynamic:
        ids = ids[:1]
    axes = {n: {0: "batch", 1: "sequence"} for n in names} if dynamic else {}
    return Net(shake(Encoder(model)), (ids, torch.ones_like(ids), torch.zeros_like(ids)), names, ("last_hidden_state",), axes)


def bert_base(small: bool) -> Net:
    """BERT-base, 128 tokens, static shapes."""
    if small:
        return _encoder(16, False, vocab_size=200, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96)
    return _encoder(128, False)


def minilm_l6(small: bool) -> Net:
    """all-MiniLM-L6: 6 layers of 384, dynamic batch and length."""
    if small:
        return _encoder(16, True, vocab_size=200, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    return _encoder(128, True, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)


def gpt2(small: bool) -> Net:
    """GPT-2 (12 layers of 768, 12 heads, 50,257 tokens) with KV cache; dynamic batch, new and past lengths."""
    layers, width, heads, vocabulary = (2, 48, 3, 100) if small else (12, 768, 12, 50257)
    net = Decoder(layers, width, heads, vocabulary, 64 if small else 1024)
    args = (torch.randint(0, vocabulary, (2, 5)), torch.randn(layers, 2, 2, heads, 7, width // heads))
    return Net(shake(net), args, ("ids", "past"), ("logits", "present"), {"ids": {0: "batch", 1: "new"}, "past": {2: "batch", 4: "past"}})


def bilstm(small: bool) -> Net:
    """LSTM, 2 layers x 2 directions x 256, 200 steps of 128 features."""
    steps, features, width = (12, 10, 16) if small else (200, 128, 256)
    return Net(BiLSTM(features, width, 20).eval(), (torch.randn(1, steps, features),), ("x",), ("y",))


def mlp(small: bool) -> Net:
    """Three layers of 64: what overhead costs."""
    layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10), nn.Softmax(-1))
    return Net(shake(layers), (torch.randn(1, 64),), ("x",), ("y",))
