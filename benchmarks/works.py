"""Content DNA: how far copies of works come from the originals, and how near strangers come to them.

python benchmarks/works.py FILE   # results/tracing/works.json: a row for each kind and change

Pictures are Fashion-MNIST's, one or sixteen in a square, enlarged to 256 x 256, and videos rows of them; texts are chapters of the
King James Bible; sounds are chords of a generator. Strangers' nearest distances give the threshold at FPR; fresh works were never
seen.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from assay.core.statistics import clopper_pearson
from assay.evidence import works_audio, works_image, works_text
from assay.evidence.works import METRICS
from assay.zoo.corpora import kjv
from assay.zoo.data import fashion_mnist

FPR = 0.01
Picture = NDArray[np.uint8]
Sound = NDArray[np.float64]
RATE = 11025


@dataclass(frozen=True)
class Kind:
    """`changes` make a copy of a work, by name; `prints` is its fingerprint."""

    view: str
    works: Sequence[Any]
    strangers: Sequence[Any]
    fresh: Sequence[Any]
    prints: Callable[[Any], bytes]
    changes: Mapping[str, Callable[[Any], Any]]


def measured(kind: Kind) -> dict[str, Any]:
    """Of every change: the median distance to the original, and how many copies are found, the original first."""
    metric, works = METRICS[kind.view], [kind.prints(work) for work in kind.works]
    null = metric([kind.prints(work) for work in kind.strangers], works).min(1)
    fresh = metric([kind.prints(work) for work in kind.fresh], works).min(1)
    false = sum(known(distance, null) for distance in fresh)
    rows = {}
    for name, change in kind.changes.items():
        apart = metric([kind.prints(change(work)) for work in kind.works], works)
        right = apart.argmin(1) == np.arange(len(works))
        found = [bool(own and known(d, null)) for own, d in zip(right, apart.min(1), strict=True)]
        rows[name] = {"distance": round(float(np.median(np.diag(apart))), 4), "found": sum(found)}
    return {
        "works": len(works), "strangers": len(null), "fresh": len(fresh), "fpr": FPR,
        "strangers_nearest": [round(float(q), 4) for q in np.quantile(null, [0, 0.01, 0.5])],
        "false": false, "false_interval_95": clopper_pearson(false, len(fresh)), "changes": rows,
    }  # fmt: skip


def known(distance: float, null: NDArray[np.float64]) -> bool:
    return bool((1 + (null <= distance).sum()) / (len(null) + 1) <= FPR)


def squares(side: int, count: int, start: int) -> list[Picture]:
    """Squares of side x side different pictures, (256, 256, 3)."""
    pictures = fashion_mnist(train=True).inputs[start : start + side * side * count, 0].numpy()
    out = []
    for part in pictures.reshape(count, side, side, 28, 28):
        grey = (part.transpose(0, 2, 1, 3).reshape(28 * side, 28 * side) * 255).astype(np.uint8)
        image = Image.fromarray(grey).resize((256, 256), Image.Resampling.BICUBIC)
        out.append(np.asarray(image.convert("RGB")))
    return out


def image(change: Callable[[Image.Image], Image.Image]) -> Callable[[Picture], Picture]:
    return lambda picture: np.asarray(change(Image.fromarray(picture)).convert("RGB"))


def jpeg(picture: Image.Image, quality: int = 50) -> Image.Image:
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def noise(picture: Picture) -> Picture:
    rng = np.random.default_rng(0)
    return (picture + rng.normal(0, 20, picture.shape)).clip(0, 255).astype(np.uint8)


def captioned(picture: Image.Image) -> Image.Image:
    ImageDraw.Draw(picture).rectangle((0, 220, 256, 256), fill="white")
    return picture


PICTURES: dict[str, Callable[[Picture], Picture]] = {
    "JPEG 50": image(jpeg),
    "resized to 128": image(lambda p: p.resize((128, 128))),
    "blurred, radius 2": image(lambda p: p.filter(ImageFilter.GaussianBlur(2))),
    "noise, sd 20 of 255": noise,
    "half as bright": image(lambda p: p.point([value // 2 for value in range(256)] * 3)),
    "mirrored": lambda p: np.ascontiguousarray(p[:, ::-1]),
    "a quarter turn": lambda p: np.ascontiguousarray(np.rot90(p)),
    "caption over a seventh": image(captioned),
    "cropped by 5 %": lambda p: np.ascontiguousarray(p[13:243, 13:243]),
    "rotated by 3 degrees": image(lambda p: p.rotate(3)),
}


def pictures(side: int) -> Kind:
    all_ = squares(side, 500, 0)
    return Kind("image", all_[:100], all_[100:400], all_[400:], works_image.fingerprint, PICTURES)


def videos() -> Kind:
    """Twelve frames each."""
    frames = squares(4, 12 * 160, 10_000)
    all_ = [frames[i : i + 12] for i in range(0, len(frames), 12)]
    changes: dict[str, Callable[[list[Picture]], list[Picture]]] = {
        "every frame JPEG 50": lambda video: [PICTURES["JPEG 50"](frame) for frame in video],
        "every third frame": lambda video: video[::3],
        "a quarter of it": lambda video: video[3:6],
        "inside another": lambda video: [*all_[-1][:6], *video, *all_[-1][6:]],
        "every frame mirrored": lambda video: [PICTURES["mirrored"](frame) for frame in video],
        "every frame cropped by 5 %": lambda video: [PICTURES["cropped by 5 %"](frame) for frame in video],
    }
    return Kind("video", all_[:20], all_[20:119], all_[119:159], works_image.video_fingerprint, changes)


def texts() -> Kind:
    chapters = [doc.text for doc in kjv() if len(doc.text.split()) >= 400]
    order = np.random.default_rng(0).permutation(len(chapters))
    all_ = [chapters[i] for i in order[:500]]
    changes: dict[str, Callable[[str], str]] = {
        "capitals, no punctuation": lambda text: " ".join(works_text.words(text)).upper(),
        **{f"excerpt of {n} words": partial(excerpt, count=n) for n in (200, 50, 25, 10)},
        **{f"every {n}th word replaced": partial(replaced, every=n) for n in (20, 10, 5)},
    }
    return Kind("text", all_[:100], all_[100:400], all_[400:], works_text.fingerprint, changes)


def excerpt(text: str, count: int) -> str:
    return " ".join(text.split()[100 : 100 + count])


def replaced(text: str, every: int) -> str:
    return " ".join(word if i % every else f"x{i}" for i, word in enumerate(text.split()))


def melody(seed: int) -> Sound:
    """Sixteen seconds of chords, four a second."""
    tones = 220 * 2 ** (np.random.default_rng(seed).integers(0, 36, (64, 3)) / 12)
    chord = np.repeat(tones, RATE // 4, 0)
    return np.asarray(np.sin(2 * np.pi * np.cumsum(chord, 0) / RATE).sum(1) / 4)


def faster(sound: Sound, by: float) -> Sound:
    place = np.arange(0, len(sound) - 1, by)
    return np.asarray(np.interp(place, np.arange(len(sound)), sound))


def mp3(sound: Sound) -> Sound:
    """Through 32 kbit/s and back."""
    raw = ["-f", "f32le", "-ar", str(RATE), "-ac", "1"]
    quiet = ["ffmpeg", "-v", "error"]
    there = [*quiet, *raw, "-i", "-", "-b:a", "32k", "-f", "mp3", "-"]
    packed = subprocess.run(there, input=sound.astype("<f4").tobytes(), capture_output=True, check=True)
    back = subprocess.run(
        [*quiet, "-i", "-", *raw, "-"], input=packed.stdout, capture_output=True, check=True
    )
    return np.frombuffer(back.stdout, "<f4").astype(np.float64)


def sound_print(sound: Sound) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes((sound.clip(-1, 1) * 32000).astype("<i2").tobytes())
        return works_audio.fingerprint(path)


def sounds() -> Kind:
    all_ = [melody(seed) for seed in range(149)]
    rng = np.random.default_rng(0)
    changes: dict[str, Callable[[Sound], Sound]] = {
        "half as loud": lambda sound: sound / 2,
        "noise at 20 dB": lambda sound: sound + sound.std() / 10 * rng.standard_normal(len(sound)),
        "8 seconds of it": lambda sound: sound[3 * RATE : 11 * RATE],
        "1 % faster": lambda sound: faster(sound, 1.01),
        "5 % faster": lambda sound: faster(sound, 1.05),
    }
    if shutil.which("ffmpeg"):
        changes["MP3, 32 kbit/s"] = mp3
    return Kind("audio", all_[:20], all_[20:119], all_[119:], sound_print, changes)


KINDS: dict[str, Callable[[], Kind]] = {
    "text": texts,
    "picture": lambda: pictures(1),
    "16 pictures": lambda: pictures(4),
    "video": videos,
    "sound": sounds,
}


def main(path: Path) -> None:
    found = {}
    for name, kind in KINDS.items():
        found[name] = measured(kind())
        print(name, json.dumps(found[name]), flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
