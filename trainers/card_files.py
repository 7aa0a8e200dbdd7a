"""A report card on disk: card.json, figures/*.png, and card.html, which holds all of it in one file.

write_card(directory, predictions, card, "realshard-cnn v3 on faces", history, {"Judged worst": pictures})
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from trainers.card import Card
from trainers.card_figures import figures_of, svg_of
from trainers.card_html import Picture, html_of
from trainers.report import DOTS_PER_INCH

CARD, PAGE, FIGURES = "card.json", "card.html", "figures"


def write_card(
    directory: Path,
    predictions: pa.Table,
    card: Card,
    title: str,
    history: Sequence[dict[str, Any]] = (),
    pictures: Mapping[str, Sequence[Picture]] | None = None,
) -> None:
    """Writes the files into `directory`, which is made if need be.

    Args:
      predictions: those that the card is of.
      card: from `trainers.card.card_of`, with what `trainers.card_html.html_of` takes besides.
      title: which model on which images.
      history: of the training, one dict an epoch; none: no learning curves.
      pictures: grids of images by their headings.
    """
    (directory / FIGURES).mkdir(parents=True, exist_ok=True)
    (directory / CARD).write_text(json.dumps({"title": title} | card, indent=1, allow_nan=False) + "\n")
    figures = figures_of(predictions, card, history)
    for name, figure in figures.items():
        figure.savefig(directory / FIGURES / f"{name}.png", dpi=DOTS_PER_INCH)
    svgs = {name: svg_of(figure) for name, figure in figures.items()}
    (directory / PAGE).write_text(html_of(card, title, svgs, pictures or {}), "utf-8")
