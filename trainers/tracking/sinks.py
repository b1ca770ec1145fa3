"""What the tracking process writes to besides Comet: the trackers that Accelerate wraps (TensorBoard, MLflow, W&B)."""

import importlib.util
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

Images = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
_TILE_PIXELS = 112  # enough for a caption of 18 characters
_CAPTION_PIXELS = 14
_PAGE_PIXELS = 2048  # images that would make the page wider are shrunk


class Sink(Protocol):
    """One tracker, open for one run. Any method may raise; the sink is then not called again."""

    name: str

    def metrics(self, values: dict[str, float], step: int, epoch: int) -> None:
        """Log scalar metrics."""
        ...

    def page(self, title: str, page: Image.Image, step: int) -> None:
        """Log one picture made of many."""
        ...

    def confusion(self, matrix: Counts, classes: Sequence[str], step: int, epoch: int) -> None:
        """Log a confusion matrix: rows are the true classes."""
        ...

    def text(self, name: str, text: str) -> None:
        """Log a file."""
        ...

    def finish(self, status: str | None) -> None:
        """End the run; without a status where another process goes on with it."""
        ...


class AccelerateSink:
    """TensorBoard, MLflow or W&B, through Accelerate's trackers."""

    def __init__(self, name: str, message: dict[str, Any]) -> None:
        """Raises `ModuleNotFoundError`, with the command that installs it, where the tracker's package is missing."""
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"the package {name!r} is not installed: `pip install 'tuneyard[{name}]'`")
        self.name = name
        self._tracker = _accelerate_tracker(name, message)
        self._tracker.start()
        self._tracker.store_init_configuration(message["parameters"])
        self._directory = Path(message["directory"]) / name / message["name"]

    def metrics(self, values: dict[str, float], step: int, epoch: int) -> None:
        """Log scalars, with the epoch as one of them."""
        self._tracker.log(values | {"epoch": float(epoch)}, step=step)

    def page(self, title: str, page: Image.Image, step: int) -> None:
        """Log a picture where the tracker can; Accelerate's MLflow tracker cannot."""
        pixels = np.asarray(page.convert("RGB"))[None]
        if self.name == "tensorboard":
            self._tracker.log_images({title: pixels}, step=step, dataformats="NHWC")
        elif self.name == "wandb":
            self._tracker.log_images({title: list(pixels)}, step=step)

    def confusion(self, matrix: Counts, classes: Sequence[str], step: int, epoch: int) -> None:
        """Log the matrix as a picture: white is all of a true class (a row)."""
        share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        scale = max(1, 320 // max(1, len(classes)))
        pixels = np.kron((255 * share).astype(np.uint8), np.ones((scale, scale), np.uint8))
        self.page("confusion matrix", Image.fromarray(pixels), step)

    def text(self, name: str, text: str) -> None:
        """Log a text (TensorBoard), else leave it: the run record in the store has it."""
        if self.name == "tensorboard":
            self._tracker.log({name: f"```\n{text}\n```"}, step=0)

    def finish(self, status: str | None) -> None:
        """Close the files."""
        self._tracker.finish()


def mosaic(images: Images, captions: Sequence[str]) -> Image.Image:
    """One picture of many: uint8 [n,H,W,C] in a near-square grid, a caption under each.

    Small images are enlarged, large ones shrunk. Of two channels the first is shown, of more than
    three the first three.
    """
    n, height, width, channels = images.shape
    columns = max(1, math.ceil(math.sqrt(n)))
    longest = max(_TILE_PIXELS, min(max(height, width), _PAGE_PIXELS // columns))
    scale = longest / max(height, width)
    scale = math.floor(scale) if scale >= 1 else scale
    shown_size = max(1, round(width * scale)), max(1, round(height * scale))
    tile_width, tile_height = max(_TILE_PIXELS, shown_size[0]), shown_size[1] + _CAPTION_PIXELS
    page = Image.new("RGB", (columns * tile_width, max(1, math.ceil(n / columns)) * tile_height), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(10)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = index % columns * tile_width, index // columns * tile_height
        shown = Image.fromarray(image[..., :3] if channels >= 3 else image[..., 0])
        # NEAREST keeps an enlarged pixel a pixel; BOX shrinks without aliasing.
        how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
        page.paste(shown.resize(shown_size, how).convert("RGB"), (left, top))
        draw.text((left + 1, top + shown_size[1]), caption[: tile_width // 6], fill="black", font=font)
    return page


def _accelerate_tracker(name: str, message: dict[str, Any]) -> "GeneralTracker":
    # This process is one of one, and needs no GPU, whatever the training process's environment says: Accelerate would
    # otherwise wait for the other ranks here.
    for variable in [*os.environ]:
        if variable in {"RANK", "LOCAL_RANK", "WORLD_SIZE"} or variable.startswith(("ACCELERATE_", "MASTER_")):
            del os.environ[variable]
    from accelerate import PartialState
    from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker

    PartialState(cpu=True)
    directory = Path(message["directory"]) / name
    directory.mkdir(parents=True, exist_ok=True)
    if name == "tensorboard":
        return TensorBoardTracker(message["name"], logging_dir=directory)
    if name == "mlflow":
        # Where the user named no server: a local database, which several runs may write to at once.
        os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{directory / 'mlflow.db'}")
        return MLflowTracker(message["project"], logging_dir=directory.as_uri(), run_name=message["name"])
    mode = "online" if os.environ.get("WANDB_API_KEY") or (Path.home() / ".netrc").exists() else "offline"
    return WandBTracker(
        message["project"],
        dir=str(directory),
        name=message["name"],
        id=message["key"],
        resume="allow",
        mode=os.environ.get("WANDB_MODE", mode),
    )
