"""Quantization-aware training: prepare, train, convert. The quantizer is in the loop, and its scales learn with the weights."""

from kbit.qat.checkpoint import qat_checkpoint
from kbit.qat.fixed_point import FixedPointQatResult, qat_fixed_point
from kbit.qat.integer_student import IntegerStudent, integer_student
from kbit.qat.plan import TrainPlan
from kbit.qat.prepare import METHOD, QAT, convert, prepare_qat
from kbit.qat.result import QatResult
from kbit.qat.text import TrainingText, read_training_text
from kbit.qat.train import Trained, train_qat

__all__ = [
    "METHOD",
    "QAT",
    "FixedPointQatResult",
    "IntegerStudent",
    "QatResult",
    "TrainPlan",
    "Trained",
    "TrainingText",
    "convert",
    "integer_student",
    "prepare_qat",
    "qat_checkpoint",
    "qat_fixed_point",
    "read_training_text",
    "train_qat",
]
