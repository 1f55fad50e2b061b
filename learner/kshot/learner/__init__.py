"""The learner: networks as pure functions of flat parameters, and the inner loop over them."""

from kshot.learner.compile.step_cache import (
    CompilationError,
    RefusedStepError,
    StepCache,
    compile_program,
    compile_step,
    compiler_name,
    default_cache_folder,
)
from kshot.learner.inference import (
    query_logits,
    support_and_query_logits,
    support_logits,
    support_statistics,
    transductive_logits,
)
from kshot.learner.layout import ParameterLayout
from kshot.learner.networks.conv4 import Conv4
from kshot.learner.networks.features import Features
from kshot.learner.networks.mlp import Mlp
from kshot.learner.networks.network import (
    NETWORKS,
    Network,
    Parameters,
    Statistics,
    build_network,
    initial_parameters,
    layout_of,
    logits_of,
)
from kshot.learner.networks.resnet12 import Resnet12
from kshot.learner.networks.tail import (
    Tail,
    mixed_logits,
    split_maps,
)
from kshot.learner.reproducibility import compute_reproducibly
from kshot.learner.steps.cuda_graphs import graphed
from kshot.learner.steps.head import prototype_head, with_prototype_heads
from kshot.learner.steps.initialization import Initialization, LoopState, stack_states, start_state
from kshot.learner.steps.inner_loop import InnerLoopResult, run_inner_loop
from kshot.learner.steps.inner_step import InnerStep, build_inner_step, loss_gradients
from kshot.learner.steps.preconditioner import StepRule
from kshot.learner.steps.query_gradient import QueryGradient, build_query_gradient
from kshot.learner.steps.query_spec import QuerySpec
from kshot.learner.steps.refinement import Refinement, RefinementTask, refine
from kshot.learner.steps.ridge import RidgeFit, ridge_head
from kshot.learner.steps.sampler import (
    balanced_indices,
    cycling_indices,
    derive_seed,
    replacement_indices,
)
from kshot.learner.steps.second_order import maml_gradient
from kshot.learner.steps.slots import SlotProgress, SlotResult, Slots, SlotTask
from kshot.learner.steps.step_spec import StepSpec, Tunable
from kshot.learner.steps.task_losses import Objective, task_losses

__all__ = [
    "NETWORKS",
    "CompilationError",
    "Conv4",
    "Features",
    "Initialization",
    "InnerLoopResult",
    "InnerStep",
    "LoopState",
    "Mlp",
    "Network",
    "Objective",
    "ParameterLayout",
    "Parameters",
    "QueryGradient",
    "QuerySpec",
    "Refinement",
    "RefinementTask",
    "RefusedStepError",
    "Resnet12",
    "RidgeFit",
    "SlotProgress",
    "SlotResult",
    "SlotTask",
    "Slots",
    "Statistics",
    "StepCache",
    "StepRule",
    "StepSpec",
    "Tail",
    "Tunable",
    "balanced_indices",
    "build_inner_step",
    "build_network",
    "build_query_gradient",
    "compile_program",
    "compile_step",
    "compiler_name",
    "compute_reproducibly",
    "cycling_indices",
    "default_cache_folder",
    "derive_seed",
    "graphed",
    "initial_parameters",
    "layout_of",
    "logits_of",
    "loss_gradients",
    "maml_gradient",
    "mixed_logits",
    "prototype_head",
    "query_logits",
    "refine",
    "replacement_indices",
    "ridge_head",
    "run_inner_loop",
    "split_maps",
    "stack_states",
    "start_state",
    "support_and_query_logits",
    "support_logits",
    "support_statistics",
    "task_losses",
    "transductive_logits",
    "with_prototype_heads",
]
