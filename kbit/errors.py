"""The tree of errors: every fault that a user can mend is a KbitError with one line of text.

    KbitError                 exit code 2 on the command line
    |- FormatError            a format string, a recipe or a codebook that does not exist or does not fit
    |- CheckpointError        a file that is missing, damaged, unsafe or of another version
    |- KernelError            a native kernel that is asked for what it cannot do, or an instruction set that does not run here
    |- FixedPointError        integers that could overflow, a scale that none stands for, or a float where only integers may be
    |- ModelError             a model that cannot be walked, quantized or run as asked
    |- TextError              a text that is empty, too short or not readable
    |- StoreError             a study's grid or its store
    |- LawError               too few runs, or a fit that does not determine its parameters
    `- BudgetError            a memory budget that nothing fits

A line says where, what, and what to do. `assert` is kept for what only a bug of ours can break.
"""


class KbitError(Exception):
    """A fault that the user can mend; its text is one line that says where, what, and what to do."""


class FormatError(KbitError):
    """A format string, recipe or codebook that does not exist or does not fit."""


class CheckpointError(KbitError):
    """A file that is missing, damaged, unsafe or of another version."""


class KernelError(KbitError):
    """A native kernel that is asked for what it cannot do, or an instruction set that does not run here."""


class FixedPointError(KbitError):
    """Integers that could overflow, a scale that no dyadic number stands for, or a float where only integers may be."""


class ModelError(KbitError):
    """A model that cannot be walked, quantized or run as asked."""


class TextError(KbitError):
    """A text that is empty, too short or not readable."""


class StoreError(KbitError):
    """A grid of a study, or the store of its runs, that cannot be used."""


class LawError(KbitError):
    """Too few runs for a fit, or a fit that does not determine its parameters."""


class BudgetError(KbitError):
    """A memory budget that nothing fits."""
