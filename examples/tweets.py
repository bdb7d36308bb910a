"""Rated tweets (Hutto and Gilbert 2014, MIT licence) from vaderSentiment's source package, for 03 and 12."""

from __future__ import annotations

import html
import re
import sys
import tarfile
from pathlib import Path

import numpy as np

SOURCE = "vaderSentiment-3.3.2"


def split(text: str) -> list[str]:
    """Words and emoticons, without the names and addresses of others."""
    text = re.sub(r"@\w+|https?://\S+", " ", html.unescape(text).lower())
    return re.findall(r"[a-z]+(?:'[a-z]+)?|[^\w\s]+", text) or ["."]


def read(path: Path) -> tuple[list[list[str]], np.ndarray, dict[str, float]]:
    """Tweets as words, their mean ratings, and those of words, from an archive in an archive."""
    inside, tables = f"{SOURCE}/additional_resources/hutto_ICWSM_2014.tar.gz", []
    try:
        with tarfile.open(path) as source, tarfile.open(fileobj=source.extractfile(inside)) as archive:
            for name in ("tweets_GroundTruth", "vader_sentiment_lexicon"):
                text = archive.extractfile(f"hutto_ICWSM_2014/{name}.txt").read().decode(errors="replace")
                tables.append([line.split("\t") for line in text.splitlines()])
    except (OSError, tarfile.TarError, KeyError) as error:
        sys.exit(f"{path}: expected vaderSentiment's source package, got {error}; --help has the line that brings it")
    ratings, rated = ({row[0]: float(row[1]) for row in table} for table in tables)
    return [split(row[2]) for row in tables[0]], np.array([*ratings.values()], np.float32), rated
