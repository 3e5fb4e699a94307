"""A model of integers in the place of transformers' own: what kbit.load gives for a fixed-point checkpoint.

Token ids go in and integer logits come out of a program; they become floats outside of it, times one power of two.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from kbit.checkpoints.kbit_folder import KbitCheckpoint
from kbit.errors import CheckpointError, ModelError
from kbit.fixedpoint import IntegerOnly
from kbit.fixedpoint.tables import CURVES, curve, exp2_table
from kbit.kernels import FixedDecoder, FixedStep
from kbit.models.integer_check import check
from kbit.models.integer_program import Program, WrongProgramError
from kbit.models.integer_run import Interpreter


class IntegerModel(PreTrainedModel):
    """A program with the configuration of the model that it came from. It has no parameters of floats, and cannot be trained.

    Native kernels run it. check_integer: the operators of kbit.fixedpoint run it instead, in torch, where every operation is
    watched, and one on a float raises FixedPointError. Both give the same integers.
    """

    config_class = PretrainedConfig

    def __init__(self, program: Program, config: PretrainedConfig) -> None:
        config = deepcopy(config)
        config._attn_implementation = "eager"  # of transformers' ways of attention, none of which is taken
        super().__init__(config)
        self.generation_config = GenerationConfig.from_model_config(config)  # as PreTrainedModel does where it can generate
        self.program = program
        self.check_integer = False
        self._reader: IntegerReader | None = None

    def forward(self, input_ids: Tensor, **ignored: Any) -> CausalLMOutput:
        """Logits (batch, n, vocabulary) of ids (batch, n), each text from its beginning: integers times their scale, float32."""
        return CausalLMOutput(logits=self.floats(self.integer_logits(input_ids)))

    def integer_logits(self, input_ids: Tensor) -> Tensor:
        """Integer logits (batch, n, vocabulary) of ids (batch, n), int32."""
        n = input_ids.shape[1]
        if self._reader is None or self._reader.capacity < n or self._reader.checked != self.check_integer:
            self._reader = IntegerReader(self, n)
        return self._reader.read_texts(input_ids)

    def floats(self, logits: Tensor) -> Tensor:
        """What integer logits stand for, float32; below 2^24 exactly."""
        return logits.float() * 2.0**-self.program.logits_shift

    @property
    def device(self) -> torch.device:
        """Where the integers lie."""
        return torch.device("cpu")

    @property
    def bytes_per_token(self) -> int:
        """Bytes of weights that one token makes the model read: every matrix that is multiplied, once."""
        multiplied = {number for step in self.program.steps if step.op == "linear" for number in step.matrix}
        return sum(self.program.weights[number].nbytes for number in multiplied)

    @property
    def sizes(self) -> dict[str, float]:
        """What kbit eval says of a model's size, from what is stored."""
        program = self.program
        looked_up = {number for step in program.steps if step.op == "embed" for number in step.matrix}
        last = program.steps[-1].matrix
        linear = [weight for number, weight in enumerate(program.weights) if number not in looked_up | set(last)]
        weights = sum(weight.shape[0] * weight.shape[1] for weight in linear)
        total = sum(weight.nbytes for weight in program.weights) + sum(tensor.nbytes for tensor in program.tensors)
        return {
            "total_bits": 8 * total,
            "total_bytes": total,
            "parameters_linear": weights,
            "bits_per_weight": 8 * sum(weight.nbytes for weight in linear) / weights,
        }


class IntegerReader:
    """Reads up to `capacity` tokens one call after another: a Reader whose logits are integers.

    checked: by the reference interpreter under IntegerOnly, else by the native kernels.
    """

    def __init__(self, model: IntegerModel, capacity: int) -> None:
        """Raises FixedPointError or KernelError where a sum of products could leave 32 bits."""
        self.capacity, self.checked = capacity, model.check_integer
        self._program = model.program
        self._run: Interpreter | FixedDecoder = Interpreter(model.program) if self.checked else native(model.program, capacity)

    @property
    def position(self) -> int:
        """Tokens read so far."""
        return self._run.position

    def __call__(self, tokens: Tensor) -> Tensor:
        """Integer logits of the last of `tokens`, int64 (n,): int32 (1, vocabulary)."""
        return self.read(tokens, every=False)

    def read(self, tokens: Tensor, *, every: bool) -> Tensor:
        """Integer logits of the last of `tokens`, or of every one: int32 (1 or n, vocabulary). ModelError beyond the capacity."""
        if self.position + len(tokens) > self.capacity:
            raise ModelError(
                f"{self.position} + {len(tokens)} tokens do not fit the {self.capacity} that were asked for. Ask for more."
            )
        if isinstance(self._run, Interpreter):
            with IntegerOnly():
                return self._run(tokens[None], every=every)[0]
        logits = torch.empty(len(tokens) if every else 1, self._program.vocabulary, dtype=torch.int32)
        self._run.run(tokens.contiguous(), logits)
        return logits

    def read_texts(self, ids: Tensor) -> Tensor:
        """Integer logits of texts (batch, n), each from its beginning: int32 (batch, n, vocabulary)."""
        logits = []
        for text in ids:
            self.rewind(0)
            logits.append(self.read(text, every=True))
        self.rewind(0)
        return torch.stack(logits)

    def rewind(self, position: int) -> None:
        """Forget what was read from `position` on."""
        self._run.rewind(position)


def watch(model: PreTrainedModel) -> None:
    """Let a model of integers run watched. Raises ModelError where it is one of floats."""
    if not isinstance(model, IntegerModel):
        raise ModelError(
            f"{model.name_or_path}: is a model of floats, so there is nothing to check. Make one of integers: "
            f"kbit quantize MODEL --fixed-point --weights 4 --activations 8 --text FILE --out DIR."
        )
    model.check_integer = True


def native(program: Program, capacity: int) -> FixedDecoder:
    """The program for the native kernels, with a cache of `capacity` positions."""
    cache = program.cache
    return FixedDecoder(
        steps=[FixedStep(**vars(step)) for step in program.steps],
        buffers=[(buffer.width, buffer.kind) for buffer in program.buffers],
        matrices=[weight.native for weight in program.weights],
        tensors=program.tensors,
        curves={name: curve(name) for name in CURVES},
        exp2=exp2_table(),
        cache=(cache.layers, cache.kv_heads, cache.head, cache.k),
        positions=program.positions,
        capacity=min(capacity, program.positions),
    )


def read_program(checkpoint: KbitCheckpoint) -> Program:
    """The program of a fixed-point checkpoint, checked as a whole. Raises CheckpointError where it is damaged."""
    try:
        program = Program.from_json(checkpoint.read_program(), checkpoint.read_packed, checkpoint.read_program_tensor)
        check(program)
    except WrongProgramError as error:
        raise CheckpointError(f"{checkpoint.path}: its program is wrong: {error}. Convert the model again.") from None
    return program
