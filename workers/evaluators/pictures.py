"""Pictures for people: grids of images as PNG files."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

SIDE = 480  # pixels of a square grid, about
GAP = 2  # pixels between images, after upscaling
SEPARATOR = 12  # pixels between the two grids
PAPER = 255


def save_comparison(left: Tensor, right: Tensor, peak: int, path: Path, *, columns: int = 8) -> None:
    """Two square grids of images (n, C, H, W) with levels 0..peak side by side."""
    grids = [grid(pixels, peak, columns=columns) for pixels in (left, right)]
    separator = torch.full((grids[0].shape[0], SEPARATOR, grids[0].shape[2]), PAPER, dtype=torch.uint8)
    picture = torch.cat((grids[0], separator, grids[1]), dim=1)
    Image.fromarray(picture.squeeze(2).numpy()).save(path, format="PNG")


def save_grid(pixels: Tensor, peak: int, path: Path, *, columns: int = 8) -> None:
    """One square grid of images (n, C, H, W) with levels 0..peak."""
    Image.fromarray(grid(pixels, peak, columns=columns).squeeze(2).numpy()).save(path, format="PNG")


def grid(pixels: Tensor, peak: int, *, columns: int, rows: int | None = None) -> Tensor:
    """The first images in rows: uint8 (H, W, C), every pixel enlarged so that a row is about SIDE wide.

    As many rows as columns, unless told otherwise.
    """
    rows = columns if rows is None else rows
    shown = (pixels[: columns * rows].cpu().float() * (255 / peak)).round().to(torch.uint8)
    count, channels, height, width = shown.shape
    scale = max(SIDE // (columns * max(height, width)), 1)
    shown = shown.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)

    cell_height, cell_width = height * scale + GAP, width * scale + GAP
    paper = torch.full((rows * cell_height - GAP, columns * cell_width - GAP, channels), PAPER).byte()
    for index in range(count):
        top, left = index // columns * cell_height, index % columns * cell_width
        paper[top : top + height * scale, left : left + width * scale] = shown[index].permute(1, 2, 0)
    return paper
