"""Model structure: nodes, attributes, subgraphs, functions, repairs, and files that lie."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from pytensor_rt.errors import ModelError
from pytensor_rt.graph import Graph, ValueInfo, builtin_function, export_model, load_model
from pytensor_rt.graph.export import type_proto

BIG = np.arange(600, dtype=np.float32)


def subgraph_model() -> onnx.ModelProto:
    """Weights in the graph, in both branches of an If, in a Constant and in a function; names shadowed in a branch."""
    branch = [
        helper.make_graph(
            [helper.make_node("Add", ["x", name], ["y"])], "b", [], [onnx.ValueInfoProto(name="y")], [numpy_helper.from_array(BIG, name)]
        )
        for name in ("w_then", "w_else")
    ]
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(BIG, "v"))
    nodes = [
        helper.make_node("If", ["cond"], ["y"], then_branch=branch[0], else_branch=branch[1]),
        constant,
        helper.make_node("Scale", ["y"], ["z"], domain="local", name="call"),
        helper.make_node("Add", ["z", "c"], ["out"]),
    ]
    scale = helper.make_function(
        "local", "Scale", ["a"], ["b"],
        [helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(BIG, "v")), helper.make_node("Mul", ["a", "k"], ["b"])],
        [helper.make_opsetid("", 21)],
    )  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, [600]), helper.make_tensor_value_info("cond", 9, [])],
        [helper.make_tensor_value_info("out", 1, [600])],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, functions=[scale], opset_imports=imports, ir_version=10)


def small_model() -> onnx.ModelProto:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17], producer_name: "me", model_version: 3, metadata_props: ["k": "v"]>
        g (float[N, 4] x) => (float[N, 2] y) <float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}> { h = MatMul(x, w) y = Relu(h) }"""
    )
    model.doc_string = "model doc"
    model.graph.doc_string = "graph doc"
    return model


def test_all_large_weights_are_views(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    content = subgraph_model().SerializeToString()
    path.write_bytes(content)
    for model in (load_model(path), load_model(content)):
        if_node = model.graph.nodes[0]
        body = model.functions["local", "Scale"].instantiate({})
        inits = [model.graph.initializers["c"], body.initializers["k"]]
        inits += [init for sub in if_node.subgraphs for init in sub.initializers.values()]
        assert len(inits) == 4
        for init in inits:
            assert not init.unaligned.flags.owndata
            np.testing.assert_array_equal(init.array, BIG)


def test_scopes() -> None:
    graph = load_model(subgraph_model()).graph
    then, other = graph.nodes[0].subgraphs
    assert then.free_names == ("x",) and graph.free_names == ()
    assert then.outputs[0].name == then.nodes[0].outputs[0] != "y"  # it shadowed the outer y
    assert other.outputs[0].name == other.nodes[0].outputs[0]
    assert [n.op_type for n in graph.nodes] == ["If", "Scale", "Add"]
    assert graph.last_use == {"cond": 0, "x": 0, "y": 1, "z": 2, "c": 2, "out": 3}
    assert [n.index for n in graph.nodes] == [0, 1, 2]
    assert [(n.domain, n.opset) for n in graph.nodes] == [("", 21), ("local", 1), ("", 21)]


@pytest.mark.parametrize("make", [subgraph_model, small_model])
def test_export_computes_the_same(make) -> None:
    before = make()
    after = export_model(load_model(before.SerializeToString()))
    onnx.checker.check_model(after)
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 4) if len(before.graph.input) == 1 else 600).astype(np.float32)}
    if len(before.graph.input) == 2:
        feeds["cond"] = np.array(True)
    for got, want in zip(ReferenceEvaluator(after).run(None, feeds), ReferenceEvaluator(before).run(None, feeds)):
        np.testing.assert_array_equal(got, want)


def test_metadata_and_value_infos() -> None:
    model = load_model(small_model())
    m = model.metadata
    assert (m.producer_name, m.graph_name, m.version, m.ir_version) == ("me", "g", 3, 8)
    assert (m.description, m.graph_description, m.custom_metadata_map) == ("model doc", "graph doc", {"k": "v"})
    x = model.graph.inputs[0]
    assert (x.name, x.kind, x.elem_type, x.shape, x.type_string) == ("x", "tensor", 1, ("N", 4), "tensor(float)")


def test_type_strings() -> None:
    tensor = helper.make_tensor_type_proto(1, None)
    maps = helper.make_sequence_type_proto(helper.make_map_type_proto(7, tensor))
    types = {
        "tensor(float)": tensor,
        "seq(tensor(float))": helper.make_sequence_type_proto(tensor),
        "optional(seq(tensor(float)))": helper.make_optional_type_proto(helper.make_sequence_type_proto(tensor)),
        "seq(map(int64,tensor(float)))": maps,
        "sparse_tensor(int8)": helper.make_sparse_tensor_type_proto(3, [2]),
        "tensor(float8e4m3fn)": helper.make_tensor_type_proto(17, []),
    }
    model = small_model()
    for i, t in enumerate(types.values()):
        model.graph.value_info.append(helper.make_value_info(f"v{i}", t))
    loaded = load_model(model)
    infos = loaded.graph.value_infos
    assert [infos[f"v{i}"].type_string for i in range(len(types))] == list(types)
    kinds = ["tensor", "sequence", "optional", "sequence", "sparse_tensor", "tensor"]
    assert [infos[f"v{i}"].kind for i in range(len(types))] == kinds
    assert [v.type for v in export_model(loaded).graph.value_info] == [v.type for v in model.graph.value_info]


def test_attributes() -> None:
    graph = helper.make_graph([], "empty", [], [])
    attrs = {
        "i": 3, "f": 0.5, "s": "text", "b": b"\xff\xfe", "ii": [1, 2], "ff": [0.5, 1.5], "ss": ["a", "b"], "t": numpy_helper.from_array(np.eye(2)),
        "g": graph, "gg": [graph, graph], "tp": helper.make_tensor_type_proto(1, [2]),
    }  # fmt: skip
    node = helper.make_node("Any", [""], ["y", ""], domain="d", **attrs)
    node.attribute.append(AttributeProto(name="none", type=AttributeProto.INTS))
    model = helper.make_model(
        helper.make_graph([node], "g", [], [onnx.ValueInfoProto(name="y")]), opset_imports=[helper.make_opsetid("d", 7)]
    )
    loaded = load_model(model).graph.nodes[0]
    a = loaded.attrs
    assert (a["i"], a["f"], a["s"], a["b"], a["ii"], a["ff"], a["ss"]) == (3, 0.5, "text", b"\xff\xfe", (1, 2), (0.5, 1.5), ("a", "b"))
    assert a["none"] == () and isinstance(a["g"], Graph) and len(a["gg"]) == 2 and len(loaded.subgraphs) == 3
    np.testing.assert_array_equal(a["t"], np.eye(2))
    assert a["tp"].tensor_type.elem_type == 1
    assert (loaded.inputs, loaded.outputs, loaded.opset) == (("",), ("y", ""), 7)


def test_constants() -> None:
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(np.array([7.0]), "s"), numpy_helper.from_array(np.array([1]), "i"), [3])
    forms = {
        "value": numpy_helper.from_array(np.eye(2)), "value_int": 3, "value_ints": [1, 2], "value_float": 0.5, "value_floats": [0.5, 2.0],
        "value_string": "é", "value_strings": ["a", "b"], "sparse_value": sparse,
    }  # fmt: skip
    nodes = [helper.make_node("Constant", [], [k], **{k: v}) for k, v in forms.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [], [onnx.ValueInfoProto(name=k) for k in forms]), opset_imports=[helper.make_opsetid("", 13)]
    )
    graph = load_model(model).graph
    assert graph.nodes == []
    got = {k: v.array for k, v in graph.initializers.items()}
    np.testing.assert_array_equal(got["value"], np.eye(2))
    assert (got["value_int"].dtype, got["value_int"].shape, got["value_int"].item()) == (np.int64, (), 3)
    assert got["value_ints"].tolist() == [1, 2] and got["value_floats"].tolist() == [0.5, 2.0]
    assert (got["value_float"].dtype, got["value_float"].item()) == (np.float32, 0.5)
    assert (got["value_string"].item(), got["value_strings"].tolist()) == ("é", ["a", "b"])
    assert got["sparse_value"].tolist() == [0, 7, 0]


@pytest.mark.parametrize("attrs", [{}, {"value_int": 1, "value_float": 1.0}, {"value_int": "text"}, {"value": 3}])
def test_bad_constants(attrs: dict) -> None:
    node = helper.make_node("Constant", [], ["c"], name="node", **attrs)
    model = helper.make_model(helper.make_graph([node], "g", [], [onnx.ValueInfoProto(name="c")]))
    with pytest.raises(ModelError, match="'node'"):
        load_model(model)


def test_function_attributes() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[N] x) => (float[N] y, float[N] z) { y = local.f <alpha = 0.5> (x) z = local.f <alpha = 2.0, beta = 3.0> (x, x) }
        <domain: "local", opset_import: ["": 17]>
        f <alpha, beta: float = 1.0> (x, b) => (out) { h = LeakyRelu <alpha: float = @alpha> (x) c = Constant <value_float: float = @beta> ()
            out = Max(h, c, b) }"""
    model = load_model(parser.parse_model(text))
    f = model.functions["local", "f"]
    one, two = (f.instantiate_for(n) for n in model.graph.nodes)
    assert [g.nodes[0].attrs for g in (one, two)] == [{"alpha": 0.5}, {"alpha": 2.0}]
    assert [g.initializers["c"].array.item() for g in (one, two)] == [1.0, 3.0]
    assert one.nodes[1].inputs[2] == "" and two.nodes[1].inputs[2] == "b"


def test_builtin_functions() -> None:
    def node(text: str, opset: int):
        model = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> g (float[N] x, float[N] w) => (y) {{ y = {text} }}')
        return load_model(model).graph.nodes[0]

    mish = builtin_function(node("Mish(x)", 18), 18)
    assert mish is not None and {n.op_type for n in mish.nodes} >= {"Tanh"}
    swish = builtin_function(node("Swish(x)", 24), 24)
    assert swish is not None and len(swish.inputs) == 1
    norm = builtin_function(node("LayerNormalization(x, w)", 17), 17, [ValueInfo("x", "tensor", 1, None, "tensor(float)")] * 2)
    assert norm is not None and any(n.op_type == "ReduceMean" for n in norm.nodes)
    assert builtin_function(node("Conv(x, w)", 17), 17) is None


def test_unsorted_nodes_are_sorted() -> None:
    model = small_model()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    assert [n.op_type for n in load_model(model).graph.nodes] == ["MatMul", "Relu"]


@pytest.mark.parametrize("ir_version", [3, 4])
def test_overridable_initializers(ir_version: int) -> None:
    model = small_model()
    model.ir_version = ir_version
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [4, 2]))
    graph = load_model(model).graph
    assert graph.overridable == ({"w"} if ir_version >= 4 else set())
    assert [v.name for v in graph.inputs] == (["x", "w"] if ir_version >= 4 else ["x"])


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ("a = Relu(b) b = Relu(a) y = Relu(x)", "'a'.*cycle|cycle"),
        ("y = Relu(nothing)", "'nothing', which nothing defines"),
        ("y = Relu(x) y = Relu(x)", "'y', which is already"),
        ("x = Relu(x) y = Relu(x)", "'x', which is already an input"),
        ("w = Relu(x) y = Relu(x)", "'w', which is already an initializer"),
        ("y = other.Relu(x)", "no opset for domain 'other'"),
        ("z = Relu(x)", "outputs 'y', which nothing defines"),
        (
            "y = If (c) <then_branch = t () => (q) { q = Relu(nothing) }, else_branch = e () => (q) { q = Relu(x) }>",
            "'nothing', which nothing",
        ),
    ],
)
def test_inconsistent_graphs(nodes: str, message: str) -> None:
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[N] x, bool c) => (float[N] y) <float w = {{1}}> {{ {nodes} }}'
    with pytest.raises(ModelError, match=message):
        load_model(parser.parse_model(text))


def test_recursive_functions() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "l": 1]> g (float[N] x) => (float[N] y) { y = l.f(x) }
        <domain: "l", opset_import: ["": 17, "l": 1]> f (x) => (y) { y = l.h(x) }
        <domain: "l", opset_import: ["": 17, "l": 1]> h (x) => (y) { y = l.f(x) }"""
    with pytest.raises(ModelError, match="calls itself"):
        load_model(parser.parse_model(text))


def field(number: int, payload: bytes) -> bytes:
    size, head = len(payload), bytearray([number << 3 | 2])
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    head.append(size)
    return bytes(head) + payload


@pytest.mark.parametrize("depth", [40, 5000])
@pytest.mark.parametrize("padding", [0, 3000])
def test_deep_nesting(depth: int, padding: int) -> None:
    """Graphs in attributes of nodes of graphs ..., with and without something large inside."""
    graph = field(10, b"x" * padding)
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))
    with pytest.raises(ModelError, match="nested" if padding else None):
        load_model(field(7, graph))


@pytest.mark.parametrize(
    "content", [b"", b"\x00", b"PK\x03\x04" + bytes(30), b"<html></html>", b'{"a": 1}', b"\x08\x08", b"\xff" * 40, bytes(100)]
)
def test_not_onnx(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        load_model(content)
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        load_model(path)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a regular file"):
        load_model(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "none.onnx")


def test_huge_numbers() -> None:
    for content in (b"\x3a" + b"\xff" * 9 + b"\x01", b"\x3a" + b"\x80" * 11 + b"\x01", b"\x3a\xff\xff\xff\xff\x0f"):
        with pytest.raises(ModelError, match="byte"):
            load_model(content)


@pytest.mark.parametrize("make", [small_model, subgraph_model])
def test_truncation(make) -> None:
    """Cut anywhere: a ModelError, unless what is left happens to be a whole model (cut between two fields at its end)."""
    content = make().SerializeToString()
    step = 1 if len(content) < 2000 else 7
    whole = 0
    for n in range(0, len(content), step):
        try:
            load_model(content[:n])
            whole += 1
        except ModelError:
            pass
    assert whole <= 2


def test_truncated_weight_says_where() -> None:
    content = subgraph_model().SerializeToString()
    with pytest.raises(ModelError, match=r"byte \d+"):
        load_model(content[:3000])


@pytest.mark.parametrize("make", [small_model, subgraph_model])
def test_byte_flips(make) -> None:
    """Damaged bytes load or raise ModelError, never anything else."""
    content = make().SerializeToString()
    rng = random.Random(0)
    outcomes = {True: 0, False: 0}
    for _ in range(1500):
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(damaged))
            if rng.random() < 0.5:
                damaged[at] ^= 1 << rng.randrange(8)
            elif rng.random() < 0.5:
                damaged[at] = rng.choice((0, 1, 127, 128, 255))
            else:
                del damaged[at]
        try:
            model = load_model(bytes(damaged))
            export_model(model)
            outcomes[True] += 1
        except ModelError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 0


def test_forged_segment() -> None:
    """A file cannot point a small tensor at bytes that were not cut out for it."""
    model = small_model()
    tensor = TensorProto(name="w", data_type=1, dims=[4, 2], segment=TensorProto.Segment(begin=0, end=32))
    model.graph.initializer[0].CopyFrom(tensor)
    with pytest.raises(ModelError, match="segments"):
        load_model(model.SerializeToString())


@pytest.mark.parametrize(("kind", "text"), [("tensor", "tensor(float)"), ("sequence", "seq(tensor(float))")])
@pytest.mark.parametrize("with_text", [True, False])
def test_types_for_bodies(kind: str, text: str, with_text: bool) -> None:
    """Callers that know kind and element type need not spell the type string."""
    proto = type_proto(ValueInfo("x", kind, 1, (2, None, "N"), text if with_text else ""))
    tensor = proto.tensor_type if kind == "tensor" else proto.sequence_type.elem_type.tensor_type
    assert tensor.elem_type == 1
    assert [d.WhichOneof("value") for d in tensor.shape.dim] == ["dim_value", None, "dim_param"]
    assert type_proto(None) == onnx.TypeProto()
