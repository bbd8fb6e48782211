"""Writes the small models of the tests beside this file: `pip install onnx numpy`, then `python models.py`."""
import os

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

FOLDER = os.path.dirname(os.path.abspath(__file__))
random = np.random.default_rng(7)


def array(*shape, scale=None, dtype=np.float32):
    scale = scale or 1 / np.sqrt(np.prod(shape[1:]) if len(shape) > 1 else 4)
    return (random.standard_normal(shape) * scale).astype(dtype)


def tensor(name, *shape, **keys):
    return nh.from_array(array(*shape, **keys), name)


def value(name, *shape, kind=T.FLOAT):
    return h.make_tensor_value_info(name, kind, shape)


def save(name, nodes, inputs, outputs, tensors=(), opset=17, ir=8):
    graph = h.make_graph(nodes, name, inputs, outputs, list(tensors))
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=ir)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, os.path.join(FOLDER, f"{name}.onnx"))


def linear(name, opset, ir, inputs_too=False):
    tensors = [
        tensor("matmul.weight", 64, 32),
        tensor("matmul.bias", 32),
        tensor("gemm.weight", 16, 32),
        tensor("gemm.bias", 16),
        tensor("plain_gemm.weight", 16, 12),
        tensor("turned.weight", 20, 12),
    ]
    nodes = [
        h.make_node("MatMul", ["x", "matmul.weight"], ["a"], name="matmul"),
        h.make_node("Add", ["a", "matmul.bias"], ["b"]),
        h.make_node("Relu", ["b"], ["c"]),
        h.make_node("Gemm", ["c", "gemm.weight", "gemm.bias"], ["d"], name="gemm", transB=1, alpha=0.5, beta=2.0),
        h.make_node("Transpose", ["d"], ["e"], perm=[1, 0]),
        h.make_node("Gemm", ["e", "plain_gemm.weight", "zero"], ["f"], name="plain_gemm", transA=1),
        h.make_node("Transpose", ["turned.weight"], ["w"], perm=[1, 0]),
        h.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    tensors.append(tensor("zero", 12))
    inputs = [value("x", 5, 64)]
    if inputs_too:
        inputs += [value(t.name, *t.dims) for t in tensors]
    save(name, nodes, inputs, [value("y", 5, 20)], tensors, opset, ir)


def conv(inputs, output, axes=2, kind="Conv", **keys):
    """A convolution with its steps written out: rten 0.24 has no defaults for a kernel of 1x1."""
    pads = {} if "auto_pad" in keys else {"pads": [0] * 2 * axes}
    keys = {"strides": [1] * axes, "dilations": [1] * axes, **pads, **keys}
    return h.make_node(kind, inputs, [output], **keys)


def convolutions():
    tensors = [
        tensor("strided.weight", 12, 6, 3, 5),
        tensor("strided.bias", 12),
        tensor("pointwise.weight", 16, 12, 1, 1),
        tensor("same.weight", 12, 16, 3, 3),
        tensor("grouped.weight", 12, 4, 3, 3),
        tensor("depthwise.weight", 12, 1, 3, 3),
        tensor("up.weight", 12, 10, 2, 2),
        tensor("grouped_up.weight", 10, 3, 3, 3),
        tensor("line.weight", 8, 6, 3),
    ]
    nodes = [
        conv(
            ["x", "strided.weight", "strided.bias"], "a", name="strided",
            strides=[2, 1], pads=[1, 2, 0, 3], dilations=[1, 2], kernel_shape=[3, 5],
        ),
        conv(["a", "pointwise.weight"], "b", name="pointwise"),
        h.make_node("Relu", ["b"], ["c"]),
        conv(["c", "same.weight"], "d", name="same", auto_pad="SAME_UPPER", strides=[1, 2]),
        conv(["d", "grouped.weight"], "e", name="grouped", group=3, pads=[1, 1, 1, 1]),
        conv(["e", "depthwise.weight"], "f", name="depthwise", group=12, pads=[1, 1, 1, 1]),
        conv(["f", "up.weight"], "g", kind="ConvTranspose", name="up", strides=[2, 2]),
        conv(["g", "grouped_up.weight"], "h", kind="ConvTranspose", name="grouped_up", group=2),
        h.make_node("Flatten", ["h"], ["i"], axis=2),
        h.make_node("Reshape", ["i", "shape"], ["j"]),
        conv(["j", "line.weight"], "y", 1, name="line", strides=[2], pads=[1, 1]),
    ]
    tensors.append(nh.from_array(np.array([1, 6, -1], np.int64), "shape"))
    save("convolutions", nodes, [value("x", 1, 6, 9, 12)], [value("y", 1, 8, "n")], tensors, 13, 7)


def recurrent():
    tensors = [
        tensor("table", 40, 16),
        tensor("lstm.w", 2, 4 * 8, 16),
        tensor("lstm.r", 2, 4 * 8, 8),
        tensor("lstm.b", 2, 8 * 8),
        tensor("gru.w", 1, 3 * 12, 8),
        tensor("gru.r", 1, 3 * 12, 12),
    ]
    nodes = [
        h.make_node("Gather", ["table", "x"], ["a"], name="embedding"),
        h.make_node("LSTM", ["a", "lstm.w", "lstm.r", "lstm.b"], ["b"], name="lstm", hidden_size=8, direction="bidirectional"),
        h.make_node("ReduceMean", ["b"], ["c"], axes=[1], keepdims=0),
        h.make_node("GRU", ["c", "gru.w", "gru.r"], ["y"], name="gru", hidden_size=12, linear_before_reset=1),
    ]
    save("recurrent", nodes, [value("x", 7, 3, kind=T.INT64)], [value("y", 7, 1, 3, 12)], tensors)


def constants():
    def constant(name, *shape):
        return h.make_node("Constant", [], [name], value=tensor(name, *shape))

    def branch(name, width):
        nodes = [constant("w", 16, width), h.make_node("MatMul", ["h", "w"], ["m"]), constant("v", width, 8),
                 h.make_node("MatMul", ["m", "v"], ["o"])]
        return h.make_graph(nodes, name, [], [value("o", 4, 8)])

    nodes = [
        constant("first", 32, 16),
        h.make_node("MatMul", ["x", "first"], ["h"]),
        h.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        h.make_node("Constant", [], ["zero"], value=nh.from_array(np.float32(0), "zero")),
        h.make_node("Greater", ["s", "zero"], ["c"]),
        h.make_node("If", ["c"], ["y"], name="choice", then_branch=branch("then", 16), else_branch=branch("else", 32)),
    ]
    save("constants", nodes, [value("x", 4, 32)], [value("y", 4, 8)])


def half():
    tensors = [tensor("half.weight", 24, 32, dtype=np.float16), tensor("double.weight", 32, 8, dtype=np.float64)]
    nodes = [
        h.make_node("Cast", ["half.weight"], ["w"], to=T.FLOAT),
        h.make_node("MatMul", ["x", "w"], ["a"]),
        h.make_node("Cast", ["double.weight"], ["v"], to=T.FLOAT),
        h.make_node("MatMul", ["a", "v"], ["y"]),
    ]
    save("half", nodes, [value("x", 5, 24)], [value("y", 5, 8)], tensors)


linear("linear_9", 9, 3, inputs_too=True)
linear("linear_17", 17, 8)
linear("linear_21", 21, 10)
convolutions()
recurrent()
constants()
half()
