"""`reference/small-cnn`: a small convnet that trains quickly on a CPU and copes with images of 8 pixels."""

import torch
from torch import nn

MIN_IMAGE_SIZE = 8
"""Smaller images would be a single pixel before the last convolutions."""

QUARTERS = 2
"""The head's map is this many pixels high and wide."""


class SmallCnn(nn.Module):
    """Three stages of 3×3 convolutions with batch norm, halving the map and doubling the width between them.

    The map is halved right after the first convolution, so that most of the work happens on a quarter of the pixels;
    and before the norm, which then moves a quarter of the bytes. The head sees the four quarters of the map one by one,
    since the small images that this is for (digits, garments) are centred: where a feature lies says something.

    Args:
        channels: channels of the input images.
        classes: outputs.
        width: channels of the first stage; the later ones have twice and four times as many.
        dropout: share of the pooled features that is dropped in training.
    """

    def __init__(self, channels: int, classes: int, width: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(channels, width, halve=True),
            *_convolution(width, 2 * width),
            *_convolution(2 * width, 2 * width, halve=True),
            *_convolution(2 * width, 4 * width),
            *_convolution(4 * width, 4 * width),
            nn.AdaptiveAvgPool2d(QUARTERS),
            nn.Flatten(),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(QUARTERS**2 * 4 * width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W], floating point, to logits [B, classes]."""
        logits: torch.Tensor = self.head(self.dropout(self.features(images)))
        return logits


def _convolution(inputs: int, outputs: int, *, halve: bool = False) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    pooling = [nn.MaxPool2d(2)] if halve else []
    return [convolution, *pooling, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
