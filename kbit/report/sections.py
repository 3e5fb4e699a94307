"""The sections of the page in their order: titles, and how their figures are to be read."""

from __future__ import annotations

from typing import NamedTuple


class Text(NamedTuple):
    """Words of a section that do not depend on the runs."""

    short: str
    title: str
    how: str


SECTIONS = {
    "curve": Text(
        "Curves",
        "Loss against bits",
        "Each line is one bit width over the sizes of the family; lower is better, and at any number of bits the lowest "
        "line is the best use of them. Bands are 95% intervals for comparing runs with each other: what makes one window "
        "of the text harder than another is taken out, since all runs share it. Below, the same lines as distances from "
        "the lowest one, where smaller and larger sizes were measured.",
    ),
    "optimum": Text(
        "Best k",
        "The best bit width at every budget",
        "How often each bit width has the lowest loss when the windows of the text, and the luck of the trainings, are "
        "drawn anew. Only budgets count at which smaller and larger sizes were measured; the law's answer reaches "
        "further. Dettmers and Zettlemoyer (2023) found 4 bits best at nearly every total number of bits, for models of "
        "19 million to 176 billion parameters.",
    ),
    "types": Text(
        "Data types",
        "Data types side by side",
        "What each data type adds to the loss of the same model in 16 bits, a panel for each bit width with a scale of "
        "its own. The ranking interpolates each line and compares at equal bits, resampling the windows of the text.",
    ),
    "blocks": Text(
        "Blocks",
        "Block sizes side by side",
        "Smaller blocks follow the weights more closely and store more scales, which moves their line to the right. The "
        "ranking compares at equal bits, so that the scales are paid for.",
    ),
    "front": Text(
        "Front",
        "The Pareto front",
        "Every run is a dot; the line joins those that no other run beats in bits and loss at once. Whoever has so many "
        "bits takes the last run on the line that fits.",
    ),
    "law": Text(
        "Law",
        "The fitted law",
        "Loss as a function of the linear weights N, the format, and the training tokens D where these vary. Its form is "
        "the one that predicts best at sizes left out of the fit.",
    ),
    "tokens": Text(
        "Training",
        "Longer training",
        "A model that was trained on more tokens packs more into each weight and may lose more when it is quantized. What"
        " each bit width adds to 16 bits, by training tokens, a panel for each size.",
    ),
}
