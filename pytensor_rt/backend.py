"""ONNX's backend interface (`onnx.backend.base.Backend`): `prepare`, `run_model`, `run_node`, `supports_device`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep, namedtupledict

from .session import InferenceSession


class PreparedModel(BackendRep):  # type: ignore[misc]
    """A session behind ONNX's interface: inputs by position or by name, outputs as a named tuple."""

    def __init__(self, session: InferenceSession) -> None:
        self.session = session

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Run on a list or tuple of inputs in the model's order, a mapping by name, or a single array."""
        names = [i.name for i in self.session.get_inputs()]
        if isinstance(inputs, Mapping):
            feeds = dict(inputs)
        elif isinstance(inputs, (list, tuple)):
            feeds = dict(zip(names, inputs))
        else:
            feeds = {names[0]: inputs}
        values = self.session.run(None, {k: v for k, v in feeds.items() if v is not None})
        return namedtupledict("Outputs", [o.name for o in self.session.get_outputs()])(*values)  # type: ignore[no-any-return]


class PytensorRtBackend(Backend):  # type: ignore[misc]
    """Runs ONNX models and nodes. `session_device` is the pytensor_rt device that ONNX's "CPU" means; None: the default."""

    session_device: str | None = None

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Can every node of the model be traced?"""
        from .errors import PytensorRtError

        try:
            InferenceSession(model, device=cls.session_device)
        except PytensorRtError:
            return False
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> PreparedModel:
        """Open the model. Raises the errors of InferenceSession, ValueError for an unsupported device."""
        if not cls.supports_device(device):
            raise ValueError(f"device {device!r} is not supported")
        return PreparedModel(InferenceSession(model, device=cls.session_device))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Open the model and run it once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any) -> tuple[Any, ...]:
        """Run a single node on arrays given in the order of its inputs.

        `opset_version` (default: the newest of the installed onnx) is the version of the node's domain.
        """
        super().run_node(node, inputs, device=device, outputs_info=outputs_info, **kwargs)
        arrays = [np.asarray(x) for x in inputs]
        names = [n for n in node.input if n]
        infos = [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in zip(names, arrays)
        ]
        version = kwargs.get("opset_version", onnx.defs.onnx_opset_version())
        outputs = [onnx.ValueInfoProto(name=o) for o in node.output if o]
        graph = onnx.helper.make_graph([node], "node", infos, outputs)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(node.domain, version)])
        return cls.run_model(model, dict(zip(names, arrays)), device)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """CPU only."""
        return device.split(":")[0] == "CPU"


is_compatible = PytensorRtBackend.is_compatible
prepare = PytensorRtBackend.prepare
run_model = PytensorRtBackend.run_model
run_node = PytensorRtBackend.run_node
supports_device = PytensorRtBackend.supports_device
