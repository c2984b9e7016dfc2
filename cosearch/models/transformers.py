"""Transformers: ViT-S/16 (Dosovitskiy et al. 2021, sizes of DeiT-S) and one encoder block of BERT-base."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Multi-head self-attention with one joint projection to queries, keys and values."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.projection = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: N, tokens, dim. Returns: N, tokens, dim."""
        n, tokens, dim = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.projection(y.transpose(1, 2).reshape(n, tokens, dim))


def mlp(dim: int, ratio: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, ratio * dim), nn.GELU(), nn.Linear(ratio * dim, dim))


class PreNormBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), as in ViT."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention, self.mlp = Attention(dim, heads), mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PostNormBlock(nn.Module):
    """norm(x + attention(x)), then norm(x + mlp(x)), as in BERT."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention, self.mlp = Attention(dim, heads), mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.mlp(x))


class VisionTransformer(nn.Module):
    """A ViT with a class token for 224x224 images cut into 16x16 patches."""

    def __init__(self, dim: int, heads: int, depth: int, classes: int = 1000) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(torch.zeros(1, 14 * 14 + 1, dim))
        self.blocks = nn.Sequential(*(PreNormBlock(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: N, 3, 224, 224. Returns: N, classes."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


def vit_s16() -> VisionTransformer:
    """ViT-S/16: 4.6 GMAC, 22.05 M parameters."""
    return VisionTransformer(dim=384, heads=6, depth=12)


def vit_s16_block() -> PreNormBlock:
    """One of the twelve blocks of ViT-S/16, for 197 tokens."""
    return PreNormBlock(384, 6)


def bert_base_block() -> PostNormBlock:
    """One of the twelve encoder blocks of BERT-base, for a sequence of 128 tokens: 7.09 M parameters."""
    return PostNormBlock(768, 12)
