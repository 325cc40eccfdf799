"""Makes the file of the data set `har` from the raw recordings of HAPT (https://archive.ics.uci.edu/dataset/341).

    python examples/prepare_hapt.py "HAPT Data Set/RawData" DATA/uci-har/hapt_windows.npz

Needs scipy, which scikit-learn brings. Filters and windows are those of Reyes-Ortiz et al. 2016.
"""

import re
import sys
from pathlib import Path

import numpy as np
from scipy.signal import butter, filtfilt, medfilt

RATE_HZ, WINDOW, STEP = 50, 128, 64  # windows of 2.56 s that overlap by half
TEST_SUBJECTS = (2, 4, 9, 10, 12, 13, 18, 20, 24)  # the official partition
SCALE = np.array([1 / 8000] * 6 + [1 / 3000] * 3, np.float32)  # g, g, rad/s for each unit of the stored int16


def low_pass(signal: np.ndarray, cutoff_hz: float) -> np.ndarray:
    return filtfilt(*butter(3, cutoff_hz, fs=RATE_HZ), signal, axis=0)


def channels(acc_g: np.ndarray, gyro_rad_s: np.ndarray) -> np.ndarray:
    """[T, 3] twice -> int16 [T, 9]: total acceleration, the body's part of it, angular velocity."""
    total, gyro = (low_pass(medfilt(signal, (3, 1)), 20) for signal in (acc_g, gyro_rad_s))
    body = total - low_pass(total, 0.3)  # what stays below 0.3 Hz is gravity
    return np.round(np.concatenate([total, body, gyro], axis=1) / SCALE).astype(np.int16)


def windows(raw: Path) -> dict[str, np.ndarray]:
    labels = np.loadtxt(raw / "labels.txt", dtype=int)  # experiment, user, activity 1..12, first, last sample (from 1)
    found: dict[str, list[np.ndarray]] = {"x": [], "y": [], "subject": [], "split": [], "segment": []}
    for path in sorted(raw.glob("acc_exp*_user*.txt")):
        experiment, subject = map(int, re.findall(r"\d+", path.name))
        signal = channels(np.loadtxt(path), np.loadtxt(path.with_name(path.name.replace("acc", "gyro"))))
        for segment in np.flatnonzero(labels[:, 0] == experiment):
            _, _, activity, first, last = labels[segment]
            starts = range(first - 1, last - WINDOW + 1, STEP)
            facts = {"y": activity - 1, "subject": subject, "split": subject in TEST_SUBJECTS, "segment": segment}
            found["x"] += [signal[start : start + WINDOW] for start in starts]
            for key, value in facts.items():
                found[key] += [np.int16(value)] * len(starts)
    if not found["x"]:
        sys.exit(f"no labelled recordings acc_exp*_user*.txt in {raw}: give the folder RawData of the HAPT archive")
    return {key: np.stack(values) for key, values in found.items()}


def main(raw: str, out: str) -> None:
    arrays = windows(Path(raw))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, scale=SCALE, **arrays)
    print(f"{len(arrays['y'])} windows of {len(np.unique(arrays['subject']))} people in {out}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
