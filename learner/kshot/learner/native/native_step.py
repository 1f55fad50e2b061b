"""Inner steps of conv4 written by hand, in C++: on a CPU they take half of torch's time."""

import ctypes
import weakref
from dataclasses import fields
from threading import Lock

import torch
from torch import Tensor

from kshot.bundle import Scope
from kshot.learner.networks.conv4 import BLOCK_COUNT, Conv4
from kshot.learner.networks.network import build_network
from kshot.learner.steps.ordered_step import ParameterOrder
from kshot.learner.steps.step_spec import StepSpec
from kshot.learner.steps.step_tables import EVERY, At, StepTables, TableStep
from kshot.learner.steps.task_losses import Objective

WIDEST_VECTOR = 16  # floats; filters come in whole vectors
MOST_EVALUATED = 32  # examples: there are buffers for them


class Shape(ctypes.Structure):
    """The numbers that a native step depends on: `Shape` of step.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "channels", "height", "width")),
        *((name, ctypes.c_int64) for name in ("filters", "way")),
        *((name, ctypes.c_float) for name in ("batch_norm_epsilon", "second_moment_decay")),
        *((name, ctypes.c_float) for name in ("epsilon", "weight_decay_rate")),
        *((name, ctypes.c_int32) for name in ("updates_second_moment", "pooled")),
    )


class Tables(ctypes.Structure):
    """Where the arrays of `StepTables` begin: `Tables` of step.cpp."""

    _fields_ = (
        *((field.name, ctypes.c_void_p) for field in fields(StepTables)),
        ("capacity", ctypes.c_int64),
    )

    @staticmethod
    def of(tables: StepTables) -> "Tables":
        """Tell where these arrays begin."""
        arrays = (getattr(tables, field.name).data_ptr() for field in fields(StepTables))
        return Tables(*arrays, len(tables.parameters))


def native_shape(spec: object, device: torch.device) -> Shape | None:
    """Return what a native step of a spec needs, None where there is none.

    There is one on a CPU for conv4 with filters in whole vectors, when the whole network is adapted
    to classes.
    """
    if not isinstance(spec, StepSpec) or device.type != "cpu" or spec.scope is not Scope.ALL:
        return None
    network = build_network(spec.network, spec.input_shape, spec.batch_norm_epsilon)
    if (
        spec.objective is not Objective.CROSS_ENTROPY
        or not isinstance(network, Conv4)
        or network.filters % WIDEST_VECTOR
    ):
        return None
    return Shape(
        spec.batch_size,
        *spec.input_shape,
        network.filters,
        spec.way,
        spec.batch_norm_epsilon,
        spec.second_moment_decay,
        spec.epsilon,
        spec.weight_decay_rate,
        spec.updates_second_moment,
        network.downsampling == "max_pool",
    )


class NativeStep(TableStep):
    """An `InnerStep` by the library that `write_native_package` compiles.

    Its parameters are in the order `FiltersLast`. One thread at a time takes a step.
    """

    def __init__(self, library: ctypes.CDLL, shape: Shape) -> None:
        """Allocate buffers; raise `MemoryError` where there is no room for them."""
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        library.kshot_new_step.restype = pointer
        library.kshot_delete_step.argtypes = [pointer]
        self._take = library.kshot_take_steps
        self._take.argtypes = [pointer] * 2 + [integer] * 2 + [pointer] + [integer] * 2 + [pointer]
        self._take.restype = None
        self._reorder = library.kshot_reorder
        self._reorder.argtypes = [pointer, integer, pointer, pointer, ctypes.c_int32]
        self._reorder.restype = None
        self._evaluate = library.kshot_evaluate
        self._evaluate.argtypes = [pointer] * 5
        self._evaluate.restype = None
        self._library, self._shape = library, shape
        self._for_support: NativeStep | None = None  # of the batch evaluated last
        self.task_shape = shape.channels, shape.height, shape.width, shape.filters, shape.way
        """What decides on the parameters of a task."""
        self._step = library.kshot_new_step(ctypes.byref(shape))
        if self._step is None:
            raise MemoryError("a compiled step found no memory for its buffers")
        weakref.finalize(self, library.kshot_delete_step, self._step)
        self._lock = Lock()
        self._tables: StepTables | None = None  # those of the step before, most often the same
        self._arrays = Tables()

    def __call__(
        self,
        parameters: Tensor,
        scale: Tensor,
        inputs: Tensor,
        targets: Tensor,
        way_mask: Tensor,
        step_sizes: Tensor,
    ) -> Tensor:
        """Take a step, as an `InnerStep` does, of parameters in the library's order."""
        examples, drawn = inputs.flatten(0, 1), torch.arange(targets.numel())
        tables = StepTables(
            parameters,
            scale,
            way_mask,
            examples,
            drawn.reshape(1, *targets.shape),
            targets[None],
            step_sizes[None],
            torch.empty_like(step_sizes)[None],
        )
        return tables.take_step(self, EVERY, 0)

    def take_from(self, tables: StepTables, tasks: slice, at: At, step_count: int) -> Tensor:
        """Take steps of neighbouring tasks from where they stand on, in one call."""
        first, after, _ = tasks.indices(len(tables.parameters))
        numbers, number = (None, at) if isinstance(at, int) else (at[0].data_ptr(), 0)
        newest = tables.losses.new_empty(after - first)
        with self._lock:
            if tables is not self._tables:
                self._tables, self._arrays = tables, Tables.of(tables)
            self._take(
                self._step,
                ctypes.byref(self._arrays),
                first,
                after - first,
                numbers,
                number,
                step_count,
                newest.data_ptr(),
            )
        return newest

    def evaluate(self, parameters: Tensor, examples: Tensor) -> tuple[Tensor, Tensor] | None:
        """Answer up to `MOST_EVALUATED` examples that are normalized together."""
        count = len(examples)
        if count == self._shape.batch:
            return self.answer(parameters, examples)
        if count > MOST_EVALUATED:
            return None
        if self._for_support is None or self._for_support._shape.batch != count:
            shape = Shape.from_buffer_copy(self._shape)
            shape.batch = count
            self._for_support = NativeStep(self._library, shape)
        return self._for_support.answer(parameters, examples)

    def answer(self, parameters: Tensor, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and statistics of one batch."""
        logits = parameters.new_empty(self._shape.batch, self._shape.way)
        statistics = parameters.new_empty(BLOCK_COUNT * 2 * self._shape.filters)
        arrays = parameters, examples, logits, statistics
        with self._lock:
            self._evaluate(self._step, *(tensor.data_ptr() for tensor in arrays))
        return logits, statistics

    def reorder(self, vectors: Tensor, target: Tensor, *, entering: bool) -> None:
        """Copy `(T, P)` parameters into the step's order, or out of it; both are contiguous."""
        self._reorder(self._step, len(vectors), vectors.data_ptr(), target.data_ptr(), entering)


class FiltersLast(ParameterOrder):
    """The order of a native step: kernels are `(height, width, channels, filters)`."""

    def __init__(self, step: NativeStep) -> None:
        """Take the order of a step."""
        self._step = step

    def copy(self, vectors: Tensor, target: Tensor, *, entering: bool) -> None:
        """Copy float32 `(T, P)` parameters into this order or out of it."""
        self._step.reorder(vectors.contiguous(), target, entering=entering)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FiltersLast) and other._step.task_shape == self._step.task_shape

    def __hash__(self) -> int:
        return hash(self._step.task_shape)
