"""What is measured: each row of the page with its cases, its peers, its targets and how its result is judged."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import numpy as np

INPUTS = Path(__file__).resolve().parent.parent.parent / "target" / "peers" / "inputs"


@dataclass(frozen=True)
class Input:
    """An array that is written once, under a name that says what it is."""

    name: str
    make: Callable[[], np.ndarray] = field(compare=False)


@dataclass
class Side:
    """A work of the Rust program (`taper`) or of the Python one (`python`); arguments may be inputs."""

    program: str
    work: str
    arguments: dict


@dataclass
class Start(Side):
    """An argument that is the folder of what a work of the Rust program saved: both sides start from it."""

    name: str = ""


@dataclass(frozen=True)
class Folder:
    """Arrays by name, each in a file of a folder."""

    name: str
    make: Callable[[], dict] = field(compare=False)


@dataclass
class Peer:
    side: Side
    # The peer's time over ours that is asked for; none where the peer is there for comparison alone.
    target: float | None = None


@dataclass
class Case:
    name: str
    ours: Side
    peers: dict[str, Peer]
    # The error of what a side saved: `load(name)` gives its arrays.
    error: Callable[[Callable[[str], np.ndarray]], float]
    # Single-precision multiply-adds that the work needs, given what the work said of itself, and the bytes that have to
    # be read and written: the machine's limit is the longer of both at the rates measured beside it.
    multiply_adds: Callable[[dict], float] | None = None
    bytes: float | None = None
    # An error that is rounding and nothing else.
    rounding: float = 0.0
    # Where the case belongs in the plot of growth, if it does; and if it is there for the plot alone.
    size: float | None = None
    plot_only: bool = False
    threads: tuple = (2, 1)
    # The case that stands for this one in a smoke test is small.
    quick: bool = False
    # Whether what is made is a file, which is to be the smaller one.
    sized: bool = False


@dataclass
class Row:
    name: str
    title: str
    text: str
    error: str
    cases: list[Case]
    # Of the plot: which peer, and what is along its axis.
    size: str = "side of the matrix"
    # What bounds it, where a target is missed.
    bound: str = ""


def normal(*shape, seed=1):
    def make():
        return np.random.default_rng(seed).standard_normal(shape, np.float32)

    return Input("normal-" + "x".join(map(str, shape)) + f"-{seed}", make)


def relative(value, exact):
    value, exact = np.asarray(value, np.float64), np.asarray(exact, np.float64)
    return float(np.linalg.norm(value - exact) / np.linalg.norm(exact))


# Product quantization


def train_case(name, n, columns, k, start, peers, shared=False, size=None, **more):
    matrix = normal(n, columns)
    common = dict(input=matrix, width=8, centroids=k, iterations=25, start=start)
    if shared:
        common["shared"] = "true"
    if start == "given":
        def centroids():
            vectors = matrix.make().reshape(-1, 8)
            return vectors[np.random.default_rng(5).choice(len(vectors), k, replace=False)]

        common["centroids_file"] = Input(f"start-{n}x{columns}-{k}", centroids)
    sides = {
        "faiss": Side("python", "faiss_train", common),
        "scikit-learn": Side("python", "sklearn_train", common),
        "linfa": Side("taper", "pq_train", {**common, "start": "random", "engine": "linfa"}),
    }

    def error(load):
        return float(np.square(load("dense").astype(np.float64) - matrix.make()).mean())

    pairs = n * (columns // 8) * k
    return Case(
        name,
        Side("taper", "pq_train", common),
        {peer: Peer(sides[peer], target) for peer, target in peers.items()},
        error,
        lambda said: 8 * pairs * said.get("iterations", 0),
        size=size,
        **more,
    )


def pq_train():
    cases = [
        train_case("512 × 512, m = 64, k = 50", 512, 512, 50, "random", {"faiss": 5, "scikit-learn": None, "linfa": None}),
        train_case("4096 × 4096, k = 256, a codebook a group of 8", 4096, 4096, 256, "random", {"faiss": 3}),
        train_case("32 of these groups", 4096, 256, 256, "random", {"scikit-learn": 8, "linfa": 30}, threads=(2,)),
        train_case("4096 × 4096, k = 256, one codebook, same start", 4096, 4096, 256, "given", {"faiss": 3}, shared=True),
        train_case("a 32nd of it", 4096, 128, 256, "given", {"scikit-learn": 8, "linfa": 30}, shared=True, threads=(2,)),
    ]
    for columns in (16, 64, 256):
        plot = dict(size=columns, plot_only=True, quick=columns == 16)
        cases.append(train_case(f"growth {columns}", 4096, columns, 256, "random", {"faiss": None}, **plot))
    return Row(
        "pq_train",
        "Product quantization: training",
        "Codebooks and codes by 25 iterations of k-means over vectors of 8 values. faiss uses all points, does not"
        " stop early, and computes distances by the faster of its two methods. The first centroids are random points"
        " (for linfa: k-means++, which it needs); with a single codebook they are the same points on both sides."
        " taper stops when no assignment changes any more; the result is the same.",
        "mean squared error",
        cases,
        "columns of a matrix with 4096 rows",
        "Where all centroids move in every iteration, as with one codebook for two million vectors, every distance"
        " must be computed. Each takes eight multiply-adds and three further instructions to find the smallest, and"
        " the points must be summed by cluster. Groups of few points converge early, and taper skips distances to"
        " centroids that did not move. The limit counts all distances, so its share can be more than 100 % there."
        " faiss divides each search among the threads, which gains little when a group has few points.",
    )


def codebooks(n, width=8, k=256):
    def make():
        vectors = normal(n, n).make().reshape(n, n // width, width)
        return np.ascontiguousarray(vectors[:k].transpose(1, 0, 2))

    return Input(f"codebooks-{n}-{width}-{k}", make)


def pq_code():
    def cases_of(n, plot_only):
        matrix, books = normal(n, n), codebooks(n)
        arguments = dict(input=matrix, codebooks=books, groups=n // 8)

        def error(load):
            return float(np.square(load("dense").astype(np.float64) - matrix.make()).mean())

        for name, work, fma, moved in (
            ("encode", "encode", lambda _: float(n * n * 256), None),
            ("decode", "decode", None, n * n / 8 + 4 * n * n),
        ):
            yield Case(
                f"{name} {n} × {n}, k = 256, groups of 8",
                Side("taper", f"pq_{work}", arguments),
                {"faiss": Peer(Side("python", f"faiss_{work}", arguments), 1.5 if n == 4096 else None)},
                error,
                fma,
                moved,
                size=n if name == "encode" else None,
                plot_only=plot_only,
                quick=n == 512,
            )

    cases = [case for n in (4096, 2048, 1024, 512) for case in cases_of(n, n != 4096)]
    return Row(
        "pq_code",
        "Product quantization: encode and decode",
        "Encoding finds the codes of a matrix for given codebooks; decoding computes the matrix from the codes."
        " faiss uses the faster of its two kernels.",
        "mean squared error",
        [case for case in cases if case.size or not case.plot_only],
        bound="Decoding is limited by memory: nearly all of its bytes are written, on both sides into an existing array."
        " taper stores codes group by group. It reorders them by rows in blocks of 512 rows by 512 inputs, whose"
        " codebooks fit into the second-level cache, and writes the result past the caches. faiss stores the codes of"
        " a row side by side.",
    )


def decoded(n):
    """A matrix of which each sub-vector is a centroid: its codes stand for it exactly."""

    def make():
        books = codebooks(n).make()
        codes = np.random.default_rng(3).integers(0, 256, (n // 8, n))
        return np.concatenate([book[code] for book, code in zip(books, codes)], axis=1)

    return Input(f"decoded-{n}", make)


def product_error(matrix, x):
    exact = []

    def error(load):
        if not exact:
            exact.append(x.make().astype(np.float64) @ matrix.make().T.astype(np.float64))
        return relative(load("y"), exact[0])

    return error


def products(name, work, sizes, batches, peers, matrix, more, moved, target, title, text, fma=None, rounding=1e-5, bound=""):
    cases = []
    for n in sizes:
        for batch in batches:
            w, x = matrix(n), normal(batch, n, seed=2)
            cases.append(
                Case(
                    f"{n} × {n}, batch {batch}",
                    Side("taper", work, dict(input=w, x=x, **more(n))),
                    {
                        peer: Peer(Side("python", side, dict(input=w, x=x, **extra)), target(peer, batch) if n == 4096 else None)
                        for peer, side, extra in (peers if n == 4096 else peers[:1])
                    },
                    product_error(w, x),
                    None if fma is None else (lambda _, n=n, batch=batch: fma(n, batch)),
                    moved(n, batch),
                    rounding,
                    size=n if batch == batches[0] else None,
                    plot_only=n != 4096,
                    quick=n == min(sizes),
                )
            )
    cases = [case for case in cases if case.size or not case.plot_only]
    return Row(name, title, text, "relative error", cases, bound=bound)


def pq_apply():
    return products(
        "pq_apply",
        "pq_apply",
        (4096, 2048, 1024, 512),
        (1, 64),
        [("numpy f32, dense", "numpy_product", {}), ("torch f32, dense", "torch_product", {})],
        decoded,
        lambda n: dict(codebooks=codebooks(n), groups=n // 8),
        lambda n, batch: n * n / 8 + n * 256 * 4 + 4 * batch * 2 * n,
        lambda peer, batch: {1: 3, 64: 1}[batch] if "numpy" in peer else None,
        "Product quantization: y = x Wᵀ from the codes",
        "W has groups of 8 inputs with 256 centroids each; the peer multiplies by the dense W. The limit counts the"
        " bytes of codes, codebooks, x and y, and the multiply-adds of x with all centroids.",
        lambda n, batch: float(batch * n * 256),
    )


def binary():
    row = products(
        "binary",
        "binary",
        (4096, 2048, 1024, 512),
        (1, 100),
        [("numpy f32", "numpy_product", {"signs": "true"}), ("torch f32", "torch_product", {"signs": "true"})],
        lambda n: normal(n, n),
        lambda n: {},
        lambda n, batch: (n * n + batch * n) / 8 + 4 * batch * n,
        lambda peer, batch: 20 if batch == 1 else 10,
        "Binary: sign(x) sign(W)ᵀ, both packed",
        "One bit per sign, multiplied by XNOR and population count, compared with single-precision products of the"
        " same signs. All results are exact. larq-compute-engine is not measured: its wheel cannot be imported"
        " without TensorFlow, and it creates its operators only from Keras models.",
        rounding=1e-12,
    )
    for case in row.cases:
        n, batch = (int(case.name.split()[0]), int(case.name.split()[-1]))
        signs = lambda a: np.where(a >= 0, 1.0, -1.0)
        w, x = normal(n, n), normal(batch, n, seed=2)
        case.error = lambda load, w=w, x=x: relative(load("y"), signs(x.make()) @ signs(w.make()).T)
    return row


def fixed_point():
    return products(
        "fixed_point",
        "fixed_point",
        (4096, 2048, 1024, 512),
        (1, 100),
        [
            ("torch quantized, x86", "torch_quantized", {"engine": "x86"}),
            ("torch quantized, onednn", "torch_quantized", {"engine": "onednn"}),
            ("torch quantized, fbgemm", "torch_quantized", {"engine": "fbgemm"}),
            ("torch f32", "torch_product", {}),
        ],
        lambda n: normal(n, n),
        lambda n: {},
        lambda n, batch: n * n + 4 * batch * 2 * n,
        lambda peer, batch: None if "f32" in peer else 1,
        "8-bit weights: y = x Wᵀ, real x and y",
        "Both sides use 8-bit weights with one scale per output and round the inputs to 8 bits during the product"
        " (taper: apply_rounded). torch: the dynamically quantized linear layer, with each of its engines.",
        rounding=0.0,
        bound="Where the processor has an instruction that multiplies bytes (VNNI), all of them use it. Otherwise taper"
        " multiplies 16-bit numbers, which is exact; fbgemm multiplies 8-bit numbers in half as many instructions, at"
        " the cost of one bit of x. torch rounds the whole batch with one scale, and taper each row of x with its"
        " own, so torch's error is nearly twice taper's. fbgemm packs the weights in advance in the order in which it"
        " reads them. taper multiplies the codes in the order of the file, and reorders a few rows at a time where"
        " the batch is large enough to pay for it. There the multiplications take most of the time; at batch 1 it is"
        " reading the weights.",
    )


def layers():
    cases = []
    for rows, columns, rank, batch in (
        (512, 784, 51, 100), (512, 784, 26, 100), (4096, 4096, 204, 1), (4096, 4096, 204, 100), (4096, 4096, 410, 100),
    ):
        def matrix(rows=rows, columns=columns, rank=rank):
            left, right = normal(rows, rank, seed=4).make(), normal(rank, columns, seed=5).make()
            return left @ right / np.float32(rank) ** np.float32(0.5)

        w, x = Input(f"low-rank-{rows}x{columns}-{rank}", matrix), normal(batch, columns, seed=2)
        cases.append(
            Case(
                f"low rank {rank} of {rows} × {columns}, batch {batch}",
                Side("taper", "low_rank", dict(input=w, x=x, rank=rank)),
                {
                    "torch linear, dense": Peer(Side("python", "torch_product", dict(input=w, x=x)), 1),
                    "numpy, dense": Peer(Side("python", "numpy_product", dict(input=w, x=x)), 1),
                },
                product_error(w, x),
                lambda _, s=(rows, columns, rank, batch): float((s[0] + s[1]) * s[2] * s[3]),
                4.0 * ((rows + columns) * rank + batch * (rows + columns)),
                1e-4,
                quick=rows == 512 and rank == 26,
            )
        )
    for channels, side, rank, images in ((64, 7, 61, 64), (64, 14, 61, 64), (256, 14, 64, 16), (64, 28, 61, 64)):
        shapes = {"out": channels, "in": channels, "height": 3, "width": 3}
        factors = {name: normal(length, rank, seed=10 + i) for i, (name, length) in enumerate(shapes.items())}

        def kernel(factors=factors):
            o, i, h, w = (factor.make() for factor in factors.values())
            return np.einsum("or,ir,hr,wr->oihw", o, i, h, w, optimize=True).astype(np.float32)

        kernel, x = Input(f"cp-kernel-{channels}-{rank}", kernel), normal(images, channels, side, side, seed=2)
        peer = Side("python", "torch_conv2d", dict(kernel=kernel, x=x))

        def error(load, kernel=kernel, x=x):
            # Of the first image, at its centre: the error is one of rounding.
            k, i, y = kernel.make().astype(np.float64), x.make()[0].astype(np.float64), load("y")[0]
            padded = np.pad(i, ((0, 0), (1, 1), (1, 1)))
            exact = sum(
                np.einsum("oi,ihw->ohw", k[:, :, a, b], padded[:, a : a + y.shape[1], b : b + y.shape[2]])
                for a in range(3) for b in range(3)
            )
            return relative(y, exact)

        pixels = images * side * side
        cases.append(
            Case(
                f"CP {rank} of {channels} channels, 3 × 3, {images} images of {side} × {side}",
                Side("taper", "cp_conv", dict(x=x, **factors)),
                {"torch conv2d, dense": Peer(peer, 1)},
                error,
                lambda _, s=(channels, rank, pixels): float(s[2] * s[1] * (2 * s[0] + 6)),
                4.0 * pixels * 2 * channels,
                1e-4,
                size=side if channels == 64 else None,
                quick=side == 7,
            )
        )
    return Row(
        "layers",
        "Layers of low rank and CP layers: forward",
        "The ranks are those of the examples; the peer is the dense layer with the same weights. Products with"
        " matrices write each batch into the same array; convolutions return a new array on both sides.",
        "relative error",
        cases,
        "side of the images (64 channels)",
    )


# Decompositions


def factors_error(matrix):
    def error(load):
        a = matrix.make()
        return relative((load("u") * load("s")) @ load("vt"), a)

    return error


def svd():
    cases = []
    for m, n, plot_only, threads in (
        (512, 512, False, (2, 1)), (784, 4096, False, (2, 1)), (4096, 4096, False, (2,)),
        (128, 128, True, (2, 1)), (256, 256, True, (2, 1)), (1024, 1024, True, (2, 1)),
    ):
        matrix, small, large = normal(m, n), min(m, n), max(m, n)
        peers = {"numpy gesdd": Peer(Side("python", "numpy_svd", dict(input=matrix)), 1)}
        if not plot_only and m < 4096:
            peers["scipy gesdd"] = Peer(Side("python", "scipy_svd", dict(input=matrix)), 1)
        cases.append(
            Case(
                f"thin SVD {m} × {n}",
                Side("taper", "svd", dict(input=matrix, method="exact", rank=small)),
                peers,
                factors_error(matrix),
                # Golub and Van Loan: 8/3 k³ operations for the bidiagonal form, 4 k³ for both bases, 8/3 k³ by divide and conquer; and a
                # QR of the longer side before, with its basis after.
                lambda _, k=small, l=large: (28 / 3 * k**3 / 2) + (0 if k == l else 2.0 * l * k * k),
                rounding=2e-5,
                size=m if m == n else None,
                plot_only=plot_only,
                threads=threads,
                quick=m == 128,
            )
        )
    for m, n in ((512, 512), (784, 4096), (4096, 4096)):
        matrix, rank = normal(m, n), round(0.05 * min(m, n))
        arguments = dict(input=matrix, rank=rank)
        cases.append(
            Case(
                f"randomized, rank {rank} of {m} × {n}",
                Side("taper", "svd", dict(method="randomized", **arguments)),
                {
                    "torch.svd_lowrank": Peer(Side("python", "torch_lowrank", arguments), 1),
                    "scikit-learn randomized_svd": Peer(Side("python", "sklearn_randomized", arguments), 2),
                },
                factors_error(matrix),
                lambda _, m=m, n=n, w=rank + 10: 6.0 * m * n * w,
                rounding=0.0,
                quick=m == 512,
            )
        )
    return Row(
        "svd",
        "Singular value decompositions",
        "The matrices hold normal random numbers, whose spectrum is the hardest for random projections. Randomized:"
        " all sides use two power iterations and ten columns more than the rank. taper's time includes the distance"
        " from the matrix, which its report contains.",
        "relative error",
        cases,
        bound="numpy computes in double precision; scipy and taper in single. taper's exact decomposition runs on one"
        " thread, because faer's block shapes depend on the number of threads and taper's results must not. A"
        " randomized decomposition consists mostly of products with the matrix, six on each side. Nothing can be"
        " twice as fast as a peer whose products already run at more than half of the peak rate. The rest is"
        " orthonormalizing, drawing the projection, and the small decomposition; for a small matrix it takes nearly"
        " half of taper's time.",
    )


def cp_tensor(shape, rank, positive):
    name = "x".join(map(str, shape))

    def make():
        draw = np.random.default_rng(1)
        factors = [draw.standard_normal((n, rank)) for n in shape]
        if positive:
            factors = [np.abs(factor) for factor in factors]
        letters = "abcd"[: len(shape)]
        tensor = np.einsum(",".join(f"{c}r" for c in letters) + "->" + letters, *factors, optimize=True)
        noise = draw.standard_normal(shape)
        return (tensor + noise * np.linalg.norm(tensor) / np.linalg.norm(noise) / 3).astype(np.float32)

    return Input(f"cp{'-positive' if positive else ''}-{name}-{rank}", make)


def cp():
    cases = []
    for shape, rank, plot_only in (
        ((64, 64, 3, 3), 16, False), ((256, 256, 3, 3), 64, False), ((512, 512, 9), 128, False), ((100, 100, 100), 20, False),
        ((128, 128, 3, 3), 32, True), ((512, 512, 3, 3), 128, True),
    ):
        for method, sweeps in (("als", 20), ("admm", 10)):
            if plot_only and method == "admm":
                continue
            tensor = cp_tensor(shape, rank, method == "admm")
            arguments = dict(input=tensor, rank=rank, sweeps=sweeps)
            start = Start("taper", "cp", dict(arguments, method=method, sweeps=0), f"start-{method}-{tensor.name}")
            peers = {"tensorly": f"tensorly_{method}"}
            if method == "als" and not plot_only:
                peers["pyttb"] = "pyttb_als"
            target = 10 if method == "admm" else 100 if shape == (256, 256, 3, 3) else 20

            def error(load, tensor=tensor):
                order = len(tensor.make().shape)
                letters = "abcd"[:order]
                factors = [load(f"factor_{mode}").astype(np.float64) for mode in range(order)]
                rebuilt = np.einsum(
                    "r," + ",".join(f"{c}r" for c in letters) + "->" + letters,
                    load("weights").astype(np.float64), *factors, optimize=True,
                )
                return relative(rebuilt, tensor.make())

            values = float(np.prod(shape))
            square = shape[0] == shape[1] and shape[2:] == (3, 3) and method == "als"
            cases.append(
                Case(
                    f"{method.upper()} {' × '.join(map(str, shape))}, rank {rank}, {sweeps} sweeps",
                    Side("taper", "cp", dict(arguments, method=method)),
                    {
                        peer: Peer(Side("python", work, dict(arguments, start=start)), None if plot_only else target)
                        for peer, work in peers.items()
                    },
                    error,
                    # A factor's product with the tensor takes one multiply-add a value and term, were nothing shared.
                    lambda _, v=values, o=len(shape), r=rank, s=sweeps: v * o * r * s,
                    size=shape[0] if square else None,
                    plot_only=plot_only,
                    threads=(2, 1) if plot_only or shape == (256, 256, 3, 3) or shape[0] == 64 else (2,),
                    quick=shape[0] == 64,
                )
            )
    return Row(
        "cp",
        "CP: sweeps of ALS and of ADMM without negative entries",
        "Each tensor is a sum of random terms with noise of a third of their norm. Both sides begin at the same"
        " random start. taper's ALS extrapolates, which costs nothing and lowers the error. ADMM makes at most ten"
        " inner iterations on both sides. The limit counts one multiply-add per value, term and factor; taper shares"
        " partial products between factors and needs fewer.",
        "relative error",
        cases,
        "n of a kernel n × n × 3 × 3, rank n / 4",
        "The larger the tensor, the more of a peer's time is spent in BLAS products, which run near the peak rate. A"
        " factor of twenty is not possible there: taper can only gain its own distance from the limit. For 100 × 100"
        " × 100, each of the twenty sweeps takes two products of 20 million multiply-adds even where everything"
        " possible is shared. At the peak rate of two threads these alone take longer than a twentieth of TensorLy's"
        " time. TensorLy's products with a narrow matrix, 20 columns wide, reach about a fifth of that rate. An error"
        " of *none* means that the peer's result was not finite.",
    )


def distill():
    cases = []
    for samples, classes in ((4096, 1000), (1024, 1000), (256, 1000), (128, 10)):
        student, teacher = (
            Input(f"logits-{samples}x{classes}-{seed}", lambda s=seed, a=samples, b=classes: 3 * normal(a, b, seed=s).make())
            for seed in (6, 7)
        )
        labels = Input(f"labels-{samples}x{classes}", lambda a=samples, b=classes: np.random.default_rng(8).integers(0, b, a))
        arguments = dict(student=student, teacher=teacher, labels=labels)

        def error(load, student=student, teacher=teacher, labels=labels):
            def softmax(logits):
                e = np.exp(logits - logits.max(1, keepdims=True))
                return e / e.sum(1, keepdims=True)

            s, t = (logits.make().astype(np.float64) for logits in (student, teacher))
            exact = 0.7 * 4 * (softmax(s / 4) - softmax(t / 4)) + 0.3 * softmax(s)
            exact[np.arange(len(s)), labels.make()] -= 0.3
            return relative(load("gradient"), exact / len(s))

        cases.append(
            Case(
                f"{samples} × {classes} logits",
                Side("taper", "distill", arguments),
                {"torch": Peer(Side("python", "torch_distill", arguments), 1.5 if samples == 4096 else None)},
                error,
                None,
                12.0 * samples * classes,
                1e-6,
                size=samples if classes == 1000 else None,
                plot_only=samples in (1024, 256),
                quick=samples == 128,
            )
        )
    return Row(
        "distill",
        "Distillation: loss and gradient",
        "Kullback–Leibler divergence at temperature 4 plus cross entropy, and the gradient with respect to the"
        " student's logits (torch: kl_div, cross_entropy, backward). The limit counts reading the logits of both"
        " networks and writing the gradient; three exponentials per logit cost more than that.",
        "relative error of the gradient",
        cases,
        "rows of 1000 logits",
    )


def digits():
    """The images and labels that the experiments train on."""
    import gzip

    import torch

    data = Path(__file__).resolve().parent.parent.parent / "examples" / "data" / "mnist"

    def idx(name, header):
        return np.frombuffer(gzip.decompress((data / name).read_bytes()), np.uint8, offset=header)

    images = torch.from_numpy(idx("train-images.idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28).astype(np.float32) / 255)
    return images, torch.from_numpy(idx("train-labels.idx1-ubyte.gz", 8).astype(np.int64))


def trained(make, images, labels, epochs, optimizer, seed=7):
    """The tensors of a network after some epochs, by name."""
    import torch

    torch.manual_seed(seed)
    network = make()
    optimizer = optimizer(network.parameters(), 1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(128):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
    tensors = {name.replace(".", "_"): value for name, value in network.state_dict().items()}
    return {name: value.numpy() for name, value in tensors.items() if value.is_floating_point()}


def lenet():
    """LeNet-300-100."""
    import torch

    def make():
        layers = [torch.nn.Linear(784, 300), torch.nn.ReLU(), torch.nn.Linear(300, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10)]
        return torch.nn.Sequential(*layers)

    images, labels = digits()
    return trained(make, images.flatten(1), labels, 5, torch.optim.AdamW)


def vgg():
    """VGG-11 with batch normalization, of half of its channels."""
    import torch

    def make():
        layers, inputs = [], 1
        for outputs in (32, "pool", 64, "pool", 128, 128, "pool", 256, 256, "pool", 256, 256, "pool"):
            if outputs == "pool":
                layers.append(torch.nn.MaxPool2d(2))
                continue
            layers += [torch.nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), torch.nn.BatchNorm2d(outputs), torch.nn.ReLU()]
            inputs = outputs
        return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(inputs, 10))

    images, labels = digits()
    images = torch.nn.functional.pad(images[:6000], (2, 2, 2, 2))
    return trained(make, images, labels[:6000], 2, torch.optim.Adam)


def model():
    networks = {"LeNet-300-100": Folder("lenet-300-100", lenet), "VGG-11 at half its width": Folder("vgg-11-half", vgg)}
    cases = []
    # A step of nncodec's grids is 2^(qp / 4). Both weigh bits against errors, each in its own way: taper's step is the one that gives
    # the same error.
    factors = {("LeNet-300-100", -32): 0.9965, ("LeNet-300-100", -24): 0.988, ("VGG-11 at half its width", -32): 0.993, ("VGG-11 at half its width", -24): 0.969}
    for name, network in networks.items():
        for qp in (-32, -24):

            def error(load, network=network):
                # The weights as both sides read them.
                tensors = {path.stem: np.load(path) for path in (INPUTS / network.name).glob("*.npy")}
                return sum(float(np.square(load(name).astype(np.float64) - value).sum()) for name, value in tensors.items())

            cases.append(
                Case(
                    f"{name}, nncodec's qp {qp}",
                    Side("taper", "model", dict(tensors=network, step=factors[name, qp] * 2.0 ** (qp / 4))),
                    {"nncodec": Peer(Side("python", "nncodec_model", dict(tensors=network, qp=qp)), 5)},
                    error,
                    quick=qp == -24 and name.startswith("LeNet"),
                    sized=True,
                )
            )
    return Row(
        "model",
        "Whole models: weights to the bytes of a file",
        "Both sides compress a trained network to the same squared error of its weights. Both round weights by a"
        " trellis of two grids, with one step for all matrices and kernels, and store vectors almost exactly (taper"
        " in half precision). taper codes the distance of each integer from a linear prediction, at the scale of its"
        " row and column. nncodec (MPEG's Neural Network Coding, ISO/IEC 15938-17) codes bit by bit, with contexts.",
        "sum of squared errors",
        cases,
        bound="On one thread most of taper's time is spent in adaptive entropy coding, which must learn from each number"
        " before it codes the next. The trellis processes rows on all threads.",
    )


def all_rows():
    return [row() for row in (pq_train, pq_code, pq_apply, binary, fixed_point, layers, svd, cp, distill, model)]
