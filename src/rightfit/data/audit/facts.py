"""Images in, read once and decoded small; out a row of facts for each: content, size, format, light, thumbnail."""

from __future__ import annotations

import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from rightfit.data.image import Header, decode, header, read_bytes
from rightfit.data.opened import Opened
from rightfit.data.resize import ImageSpec, Pixels, fit
from rightfit.data.stamps import DIGEST, Digests, as_row, digest
from rightfit.errors import ImageError, WriteError
from rightfit.files import reserve
from rightfit.runtime import cpu_count

SIDE = 64  # pixels of a thumbnail, whatever the aspect: a duplicate may have been stretched
FULL = 384  # pixels of the short side at which an image is decoded before
BATCH = 32  # images in one task of the pool
LIGHT = ("brightness", "contrast", "red", "blue", "colour")
# grey mean and standard deviation; mean of red - green, of blue - green, of the widest difference of channels

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Facts:
    """Row i is image i; a row that is not `ok` has a reason, and zeros elsewhere.

    What only files have (headers, bytes) is None for decoded images.
    """

    ok: npt.NDArray[np.bool_]  # (N,)
    reasons: dict[int, str]
    contents: Digests  # (N, DIGEST), equal for equal files
    thumbnails: Pixels  # (N, SIDE, SIDE) grey
    light: npt.NDArray[np.float32]  # (N, len(LIGHT)), 0..255
    headers: list[Header | None] | None = None
    sizes: npt.NDArray[np.int64] | None = None  # (N,) bytes

    def __len__(self) -> int:
        return len(self.ok)

    def without_thumbnails(self) -> Facts:
        return replace(self, thumbnails=np.zeros((0, SIDE, SIDE), np.uint8))

    def select(self, rows: Rows) -> Facts:
        """Of decoded images, which have no reasons and no headers, and without thumbnails."""
        return of_contents(self.contents[rows], self.light[rows])


def of_files(paths: Sequence[str], progress: Callable[[int], None] | None = None) -> Facts:
    """Facts of local files and URLs, by a thread a core (more for URLs).

    `progress(done)` is called from this thread. Memory is 50 bytes or so an image: thumbnails lie in an
    unnamed temporary file.
    """
    facts = _empty(len(paths))
    assert facts.headers is not None and facts.sizes is not None
    done = 0
    with closing(_looks(paths)) as batches:
        for batch in batches:
            for row, look in enumerate(batch, done):
                facts.contents[row], facts.sizes[row], facts.headers[row] = (
                    look.content,
                    look.size,
                    look.header,
                )
                if look.seen is None:
                    facts.reasons[row] = look.reason
                else:
                    facts.ok[row] = True
                    facts.thumbnails[row], facts.light[row] = look.seen
            done += len(batch)
            if progress is not None:
                progress(done)
    return facts


def of_store(store: Opened, rows: Rows, progress: Callable[[int], None] | None = None) -> Facts:
    """The same of images that are decoded already, as far as pixels tell."""
    facts = _empty(len(rows))
    for start in range(0, len(rows), BATCH):
        for row, pixels in enumerate(store.gather(rows[start : start + BATCH]), start):
            facts.thumbnails[row], facts.light[row] = _seen(pixels)
        if progress is not None:
            progress(min(start + BATCH, len(rows)))
    facts.ok[:] = True
    return Facts(facts.ok, {}, store.contents[rows], facts.thumbnails, facts.light)


def of_contents(contents: Digests, light: npt.NDArray[np.float32] | None = None) -> Facts:
    """What equal files tell alone; images without `light` count as neither dark nor constant."""
    count = len(contents)
    unknown = np.full((count, len(LIGHT)), np.nan, np.float32)
    thumbnails = np.zeros((0, SIDE, SIDE), np.uint8)
    return Facts(np.ones(count, bool), {}, contents, thumbnails, unknown if light is None else light)


def _empty(count: int) -> Facts:
    shape = (count, SIDE, SIDE)
    try:
        with tempfile.TemporaryFile(prefix="rightfit-thumbnails-") as file:  # the map keeps it
            reserve(file.fileno(), count * SIDE * SIDE)
            thumbnails = np.memmap(file, np.uint8, "w+", shape=shape) if count else np.zeros(shape, np.uint8)
    except OSError as error:
        folder = tempfile.tempdir or "a folder for temporary files"
        raise WriteError(
            f"{folder}: cannot hold {count * SIDE * SIDE / 1e6:,.0f} MB of thumbnails ({error.strerror or error}); "
            "make room there, or set TMPDIR to a folder that has some"
        ) from error
    return Facts(
        ok=np.zeros(count, bool),
        reasons={},
        contents=np.zeros((count, DIGEST), np.uint8),
        thumbnails=thumbnails,
        light=np.zeros((count, len(LIGHT)), np.float32),
        headers=[None] * count,
        sizes=np.zeros(count, np.int64),
    )


@dataclass
class _Look:
    content: Digests
    size: int = 0
    header: Header | None = None
    seen: tuple[Pixels, npt.NDArray[np.float32]] | None = None
    reason: str = ""


def _looks(paths: Sequence[str]) -> Generator[list[_Look], None, None]:
    """Batches in order, a bounded number ahead."""
    stop = threading.Event()
    remote = any("://" in path for path in paths[:1])  # remote reads wait, they do not work
    workers = max(32, cpu_count()) if remote else cpu_count()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the pool is the parallelism
    pool = ThreadPoolExecutor(workers, thread_name_prefix="look")
    waiting: deque[Future[list[_Look]]] = deque()
    try:
        starts = iter(range(0, len(paths), BATCH))
        while True:
            while len(waiting) < 2 * workers and (start := next(starts, None)) is not None:
                waiting.append(pool.submit(_batch, paths[start : start + BATCH], stop))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        cv2.setNumThreads(threads)


def _batch(paths: Sequence[str], stop: threading.Event) -> list[_Look]:
    return [_look(path) for path in paths if not stop.is_set()]


def _look(path: str) -> _Look:
    look = _Look(np.zeros(DIGEST, np.uint8))
    try:
        data = read_bytes(path)
        look.size, look.content = len(data), as_row(digest(data))
        look.header = header(data, path)
        look.seen = _seen(decode(data, _large_enough(look.header), path))
    except ImageError as error:
        look.reason = error.reason
    return look


def _large_enough(head: Header) -> ImageSpec:
    """Up to FULL pixels as it is: a JPEG's reduced scales round its size up, which at SIDE would be another picture."""
    scale = min(1.0, FULL / min(head.height, head.width))
    return ImageSpec(max(1, round(head.height * scale)), max(1, round(head.width * scale)), "stretch")


def _seen(pixels: Pixels) -> tuple[Pixels, npt.NDArray[np.float32]]:
    """(H, W, 3) RGB -> (SIDE, SIDE) grey, (len(LIGHT),)."""
    pixels = fit(pixels, ImageSpec(SIDE, SIDE, "stretch"))
    grey = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
    brightness, contrast = (float(value[0, 0]) for value in cv2.meanStdDev(grey))
    red, green, blue, _ = cv2.mean(pixels)
    first, second, third = cv2.split(pixels)
    widest = cv2.max(cv2.max(first, second), third) - cv2.min(cv2.min(first, second), third)
    return grey, np.array([brightness, contrast, red - green, blue - green, widest.mean()], np.float32)
