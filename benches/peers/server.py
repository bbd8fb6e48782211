"""The peers' side of the comparison: the same commands as the Rust program answers (see src/main.rs).

Each work is a function that reads its inputs and returns what to time, and what to write afterwards as {name: array}.
Arrays that a peer can be made to write into are there beforehand, as they are on the other side.
"""

import os
import sys
import time

import numpy as np

WORKS = {}


def work(function):
    WORKS[function.__name__] = function
    return function


def threads():
    return int(os.environ["OMP_NUM_THREADS"])


def torch():
    import torch

    torch.set_num_threads(threads())
    return torch


# Product quantization


def faiss(faster):
    """faiss, with the threshold between its two ways of computing distances that `faster` finds faster here."""
    import faiss

    faiss.omp_set_num_threads(threads())
    times = {}
    for threshold in (20, faiss.cvar.distance_compute_blas_threshold):
        faiss.cvar.distance_compute_blas_threshold = threshold
        faster(faiss)
        start = time.perf_counter()
        faster(faiss)
        times[threshold] = time.perf_counter() - start
    faiss.cvar.distance_compute_blas_threshold = min(times, key=times.get)
    return faiss


def sub_vectors(matrix, width, shared):
    if shared:
        return [matrix.reshape(-1, width)]
    return [np.ascontiguousarray(matrix[:, i : i + width]) for i in range(0, matrix.shape[1], width)]


def from_codes(matrix, width, shared, books, codes):
    if shared:
        return books[0][codes[0]].reshape(matrix.shape)
    return np.concatenate([book[code] for book, code in zip(books, codes)], axis=1)


@work
def faiss_train(input, width, centroids, iterations, shared="false", start="random", centroids_file=None, seed="1"):
    matrix, width, k, iterations = np.load(input), int(width), int(centroids), int(iterations)
    shared = shared == "true"
    given = np.load(centroids_file) if start == "given" else None
    result = []

    def fit(faiss, points, g=0, niter=iterations):
        kmeans = faiss.Kmeans(
            points.shape[1], k, niter=niter, seed=int(seed) + g, min_points_per_centroid=1, max_points_per_centroid=len(points)
        )
        kmeans.train(points, init_centroids=given)
        _, codes = kmeans.index.search(points, 1)
        return kmeans.centroids, codes[:, 0]

    sample = np.ascontiguousarray(matrix.reshape(-1, width)[: len(matrix)])
    library = faiss(lambda faiss: fit(faiss, sample, niter=5))

    def run():
        # Cutting out the groups is part of the work: the other side does it too.
        groups = sub_vectors(matrix, width, shared)
        result[:] = [fit(library, points, g) for g, points in enumerate(groups)]

    def save():
        books, codes = zip(*result)
        return {"dense": from_codes(matrix, width, shared, books, codes)}

    return run, save


@work
def sklearn_train(input, width, centroids, iterations, shared="false", start="random", centroids_file=None, seed="1"):
    from sklearn.cluster import KMeans

    matrix, width, k = np.load(input), int(width), int(centroids)
    shared = shared == "true"
    init = {"random": "random", "plusplus": "k-means++"}.get(start)
    if init is None:
        init = np.load(centroids_file)
    result = []

    def run():
        result.clear()
        for g, points in enumerate(sub_vectors(matrix, width, shared)):
            kmeans = KMeans(k, init=init, n_init=1, max_iter=int(iterations), tol=0.0, random_state=int(seed) + g)
            result.append((kmeans.fit(points).cluster_centers_, kmeans.labels_))

    def save():
        books, codes = zip(*result)
        return {"dense": from_codes(matrix, width, shared, books, codes).astype(np.float32)}

    return run, save


def faiss_product(codebooks, groups):
    import faiss as library

    library.omp_set_num_threads(threads())
    books = np.load(codebooks)
    groups, (_, k, width) = int(groups), books.shape
    product = library.ProductQuantizer(groups * width, groups, k.bit_length() - 1)
    library.copy_array_to_vector(np.ascontiguousarray(books).ravel(), product.centroids)
    return library, product


@work
def faiss_encode(input, codebooks, groups):
    matrix = np.load(input)
    library, product = faiss_product(codebooks, groups)
    codes = np.empty((len(matrix), product.code_size), np.uint8)
    pointers = library.swig_ptr(matrix), library.swig_ptr(codes)

    def transposed(transposed):
        # Its other kernel, for centroids in the other order.
        if transposed:
            product.sync_transposed_centroids()
        else:
            product.clear_transposed_centroids()

    run = lambda: product.compute_codes_c(*pointers, len(matrix))
    times = []
    for way in (False, True):
        transposed(way)
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    transposed(times[1] < times[0])
    return run, lambda: {"dense": product.decode(codes)}


@work
def faiss_decode(input, codebooks, groups):
    matrix = np.load(input)
    library, product = faiss_product(codebooks, groups)
    codes = product.compute_codes(matrix)
    pointers = library.swig_ptr(codes), library.swig_ptr(matrix)
    return lambda: product.decode_c(*pointers, len(matrix)), lambda: {"dense": matrix}


# Products


@work
def numpy_product(input, x, signs="false"):
    w, x = np.load(input), np.load(x)
    if signs == "true":
        w, x = (np.where(a >= 0, np.float32(1), np.float32(-1)) for a in (w, x))
    y = np.empty((len(x), len(w)), np.float32)
    # OpenBLAS's product of a matrix with a vector has two threads' worth of work in it, that of two matrices has not.
    run = (lambda: np.dot(w, x[0], out=y[0])) if len(x) == 1 else (lambda: np.dot(x, w.T, out=y))
    return run, lambda: {"y": y}


@work
def torch_product(input, x, signs="false"):
    t = torch()
    w, x = t.from_numpy(np.load(input)), t.from_numpy(np.load(x))
    if signs == "true":
        w, x = (t.where(a >= 0, 1.0, -1.0) for a in (w, x))
    y = t.empty(len(x), len(w))
    if len(x) == 1:
        run = lambda: t.mv(w, x[0], out=y[0])
    else:
        run = lambda: t.mm(x, w.T, out=y)
    t.set_grad_enabled(False)
    return run, lambda: {"y": y.numpy()}


@work
def torch_quantized(input, x, engine):
    import warnings

    warnings.filterwarnings("ignore")
    t = torch()
    t.set_grad_enabled(False)
    t.backends.quantized.engine = engine
    w, x = np.load(input), t.from_numpy(np.load(x))
    linear = t.nn.Linear(w.shape[1], w.shape[0], bias=False)
    linear.weight.copy_(t.from_numpy(w))
    linear.qconfig = t.ao.quantization.per_channel_dynamic_qconfig
    layer = t.ao.nn.quantized.dynamic.Linear.from_float(linear)
    result = {}

    def run():
        result["y"] = layer(x)

    return run, lambda: {"y": result["y"].numpy()}


@work
def torch_conv2d(kernel, x):
    t = torch()
    t.set_grad_enabled(False)
    kernel, x = t.from_numpy(np.load(kernel)), t.from_numpy(np.load(x))
    result = {}

    def run():
        result["y"] = t.nn.functional.conv2d(x, kernel, padding=1)

    return run, lambda: {"y": result["y"].numpy()}


# Singular values


def decomposition(result):
    return lambda: dict(zip(("u", "s", "vt"), map(np.asarray, result)))


@work
def numpy_svd(input):
    matrix, result = np.load(input), []

    def run():
        result[:] = np.linalg.svd(matrix, full_matrices=False)

    return run, decomposition(result)


@work
def scipy_svd(input):
    from scipy.linalg import svd

    matrix, result = np.load(input), []

    def run():
        result[:] = svd(matrix, full_matrices=False, lapack_driver="gesdd")

    return run, decomposition(result)


@work
def torch_lowrank(input, rank, power="2"):
    t = torch()
    t.manual_seed(1)
    matrix, rank, result = t.from_numpy(np.load(input)), int(rank), []

    def run():
        # The width of the projection is what it calls q, as large as on the other side.
        u, s, v = t.svd_lowrank(matrix, q=rank + 10, niter=int(power))
        result[:] = u[:, :rank], s[:rank], v[:, :rank].T

    return run, decomposition(result)


@work
def sklearn_randomized(input, rank, power="2"):
    from sklearn.utils.extmath import randomized_svd

    matrix, result = np.load(input), []

    def run():
        result[:] = randomized_svd(matrix, int(rank), n_oversamples=10, n_iter=int(power), random_state=1)

    return run, decomposition(result)


# CP


def terms(start):
    weights = np.load(f"{start}/weights.npy")
    factors = [f"{start}/factor_{mode}.npy" for mode in range(9)]
    return weights, [np.load(factor) for factor in factors if os.path.exists(factor)]


def cp_result(weights, factors):
    named = {f"factor_{mode}": np.asarray(factor) for mode, factor in enumerate(factors)}
    return {"weights": np.asarray(weights), **named}


@work
def tensorly_als(input, start, sweeps, rank):
    from tensorly.cp_tensor import CPTensor
    from tensorly.decomposition import parafac

    tensor, result = np.load(input), []
    start = terms(start)

    def run():
        init = CPTensor((start[0].copy(), [factor.copy() for factor in start[1]]))
        result[:] = parafac(tensor, int(rank), n_iter_max=int(sweeps), init=init, tol=0)

    return run, lambda: cp_result(*result)


@work
def tensorly_admm(input, start, sweeps, rank):
    from tensorly.cp_tensor import CPTensor
    from tensorly.decomposition import constrained_parafac

    tensor, result = np.load(input), []
    start = terms(start)

    def run():
        init = CPTensor((start[0].copy(), [factor.copy() for factor in start[1]]))
        result[:] = constrained_parafac(
            tensor, int(rank), n_iter_max=int(sweeps), n_iter_max_inner=10, init=init, non_negative=True, tol_outer=0
        )

    return run, lambda: cp_result(*result)


@work
def pyttb_als(input, start, sweeps, rank):
    import logging

    import pyttb

    logging.disable(logging.WARNING)
    # It takes double precision alone.
    tensor = pyttb.tensor(np.load(input).astype(np.float64))
    weights, factors = (np.load(f"{start}/weights.npy").astype(np.float64), terms(start)[1])
    result = []

    def run():
        init = pyttb.ktensor([np.array(factor, np.float64, order="F") for factor in factors], weights.copy())
        model, _, _ = pyttb.cp_als(tensor, int(rank), init=init, maxiters=int(sweeps), stoptol=0.0, printitn=0)
        result[:] = model.weights, model.factor_matrices

    return run, lambda: cp_result(*result)


# Distillation


@work
def torch_distill(student, teacher, labels):
    t = torch()
    f = t.nn.functional
    student = t.from_numpy(np.load(student)).requires_grad_()
    teacher, labels = t.from_numpy(np.load(teacher)), t.from_numpy(np.load(labels))
    temperature, alpha, result = 4.0, 0.7, {}

    def run():
        student.grad = None
        soft = f.kl_div(f.log_softmax(student / temperature, 1), f.softmax(teacher / temperature, 1), reduction="batchmean")
        loss = alpha * temperature**2 * soft + (1 - alpha) * f.cross_entropy(student, labels)
        loss.backward()
        result.update(value=loss.detach().numpy().reshape(1), gradient=student.grad.numpy())

    return run, lambda: result


# Whole models


@work
def nncodec_model(tensors, qp):
    import contextlib
    import io

    t = torch()
    from nncodec.nn import decode, encode

    names = [name for name in sorted(os.listdir(tensors)) if name.endswith(".npy")]
    model = {name[:-4]: np.load(f"{tensors}/{name}") for name in names}
    folder = f"{tensors}/nncodec"
    os.makedirs(folder, exist_ok=True)
    result = {}
    t.set_grad_enabled(False)

    def run():
        # What it prints is none of the answer.
        with contextlib.redirect_stdout(io.StringIO()):
            arguments = {"qp": int(qp), "results": folder, "verbose": False, "model": "m"}
            result["bytes"] = encode({name: value.copy() for name, value in model.items()}, arguments)

    def save():
        with contextlib.redirect_stdout(io.StringIO()):
            decoded = decode(result["bytes"])
        written = {name: np.asarray(value) for name, value in decoded.items()}
        return {"file_bytes": np.array([len(result["bytes"])], np.float32), **written}

    return run, save


def answer(line, loaded):
    command, *words = line.split()
    if command == "load":
        name, *pairs = words
        loaded[:] = WORKS[name](**dict(pair.split("=", 1) for pair in pairs))
        return ""
    if command == "time":
        limit, calls, start = float(words[0]), 0, time.perf_counter()
        while True:
            loaded[0]()
            calls += 1
            elapsed = time.perf_counter() - start
            if elapsed >= limit:
                return f" seconds={elapsed / calls!r} calls={calls}"
    if command == "save":
        for name, array in loaded[1]().items():
            np.save(f"{words[0]}/{name}.npy", array)
        return ""
    raise ValueError(f"there is no command {command}")


def main():
    # What libraries print is none of the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    loaded = []
    for line in sys.stdin:
        try:
            text = "ok" + answer(line, loaded)
        except Exception as error:  # whatever a peer raises: the harness says so, and goes on
            text = f"error {type(error).__name__}: {error}".replace("\n", " ")
        print(text, file=answers, flush=True)


if __name__ == "__main__":
    main()
