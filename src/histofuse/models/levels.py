"""Backbones whose embedding is pooled from maps of several stages, or from tokens."""

from dataclasses import replace
from typing import Any, Final, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError

from histofuse.core.errors import InputError
from histofuse.models.stages import find_map_layers, list_stages
from histofuse.params.image import Pooling

_WHERE: Final = "params.yaml, levels"


class PooledLevels(nn.Module):
    """Images -> logarithms of the mean and maximum over the positions of each level's maps.

    Activations are skewed; log(1 + |x|) with the sign of x brings them closer to a normal
    distribution, which a linear head and its penalty like.

    Attributes:
        network: Images -> the output of each level; what only later stages need is left out.
        stage_names: Its stages, up to the deepest level.
        map_layers: Those of them that have maps.
    """

    def __init__(self, network: nn.Module, levels: list[str], input_px: int) -> None:
        super().__init__()
        names = [stage.name for stage in list_stages(network)]
        _check_names(levels, names, "no stages of this backbone")
        layers = {layer.name: layer for layer in find_map_layers(network.eval(), input_px)}
        _check_names(levels, list(layers), "no stages with maps of a known layout")
        self.network = cut_network(network, levels, names)
        kept = names[: max(map(names.index, levels)) + 1]
        self.stage_names = tuple(f"network.{name}" for name in kept)
        self.map_layers = tuple(
            replace(layers[name], name=f"network.{name}") for name in kept if name in layers
        )
        self._pooled = [layers[level] for level in levels]

    def forward(self, x: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch width"]:
        """Compute the pooled features, level by level."""
        outputs = zip(self._pooled, self.network(x), strict=True)
        maps = [layer.arrange(output) for layer, output in outputs]
        pooled = torch.cat([p for m in maps for p in (m.mean((2, 3)), m.amax((2, 3)))], dim=1)
        return pooled.abs().log1p().copysign(pooled)


def _check_names(levels: list[str], known: list[str], problem: str) -> None:
    if unknown := [level for level in levels if level not in known]:
        text = f"{', '.join(unknown)}: {problem}"
        raise InputError.of(_WHERE, text, f"some of: {', '.join(known)}")


class PooledTokens(nn.Module):
    """Images -> a vision transformer's class token, the mean of its patches' tokens, or both.

    Attributes:
        network: Images -> the library's own embedding.
        stage_names: Its stages.
        map_layers: Those of them that have maps.

    Raises InputError if the network has no tokens, or no class token where one is asked for.
    """

    def __init__(self, network: nn.Module, pooling: Pooling, input_px: int) -> None:
        super().__init__()
        layers = find_map_layers(network.eval(), input_px)
        if not layers or layers[-1].layout != "tokens":
            self._refuse(pooling, "has no tokens", "encoder, for a network that is no transformer")
        # Class token and registers; torchvision's networks have the former alone.
        self._prefix = layers[-1].prefix_tokens
        self._uses_class, self._uses_mean = pooling != "mean", pooling != "class_token"
        if self._uses_class and not getattr(network, "has_class_token", self._prefix > 0):
            self._refuse(pooling, "has no class token", "mean or encoder")
        self.network = network
        self.stage_names = tuple(f"network.{stage.name}" for stage in list_stages(network))
        self.map_layers = tuple(replace(layer, name=f"network.{layer.name}") for layer in layers)

    @staticmethod
    def _refuse(pooling: Pooling, problem: str, expected: str) -> NoReturn:
        raise InputError.of(
            "params.yaml, pooling", f"is {pooling}, but the backbone {problem}", expected
        )

    def forward(self, x: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch width"]:
        """Compute the pooled tokens of the last layer."""
        tokens = self._compute_tokens(x)
        parts = [tokens[:, 0]] if self._uses_class else []
        parts += [tokens[:, self._prefix :].mean(1)] if self._uses_mean else []
        return torch.cat(parts, dim=1)

    def _compute_tokens(self, x: Tensor) -> Float[Tensor, "batch tokens width"]:
        network: Any = self.network
        if hasattr(network, "forward_features"):
            return network.forward_features(x)
        patches = network._process_input(x)
        first = network.class_token.expand(len(x), -1, -1)
        return network.encoder(torch.cat((first, patches), dim=1))


class _StageTracer(fx.Tracer):
    """Follows a forward pass down to the stages, which stay modules that can be hooked."""

    def __init__(self, stages: set[str]) -> None:
        super().__init__()
        self._stages = stages

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self._stages or super().is_leaf_module(
            m, module_qualified_name
        )


def cut_network(network: nn.Module, levels: list[str], stages: list[str]) -> fx.GraphModule:
    """Make a network that returns the outputs of some of its stages.

    Raises InputError if the stages cannot be followed one by one.
    """
    try:
        graph = _StageTracer(set(stages)).trace(network)
    except (TraceError, TypeError, ValueError, RuntimeError) as error:
        problem = f"the backbone cannot be followed through its stages ({error})"
        raise InputError.of(_WHERE, problem, "another backbone") from None
    outputs = {node.target: node for node in graph.nodes if node.op == "call_module"}
    (end,) = graph.find_nodes(op="output")
    end.args = (tuple(outputs[level] for level in levels),)
    cut = fx.GraphModule(network, graph)
    cut.graph.eliminate_dead_code()
    cut.delete_all_unused_submodules()
    cut.recompile()
    return cut
