"""Which imports of a pickle are known to be harmless, which are not, and which nobody knows.

Loading a pickle imports names and calls them. The allowlist holds names that only build data.
Everything else of the standard library is `dangerous`: models are made of arrays and containers,
and each function that is left out is one that somebody can turn against the loader. Of other
packages, classes and reconstructors are `unknown` (they may be honest, nobody has looked);
functions that are called, and modules that run, load or fetch things, are `dangerous`.

    >>> judge_import("posix", "system", called=True).verdict
    'dangerous'
"""

import _compat_pickle  # Python's own table of what Python 2 called things
import builtins
import re
import sys
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pedigree.admission.verdict import words

Verdict: TypeAlias = Literal["allowed", "unknown", "dangerous"]


@dataclass(frozen=True)
class Judged:
    """What is thought of one import; `why` is a clause."""

    verdict: Verdict
    why: str


def _names(module: str, names: str) -> set[str]:
    return {f"{module}.{name}" for name in names.split()}


_TORCH_STORAGES = (
    "FloatStorage DoubleStorage HalfStorage BFloat16Storage LongStorage IntStorage ShortStorage "
    "CharStorage ByteStorage BoolStorage ComplexFloatStorage ComplexDoubleStorage QInt8Storage "
    "QInt32Storage QUInt8Storage QUInt4x2Storage QUInt2x4Storage"
)
_TORCH_DTYPES = (
    "float32 float64 float16 bfloat16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz "
    "int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool complex32 complex64 complex128 qint8 "
    "qint32 quint8 float double half long int short strided sparse_coo"
)
_NUMPY_SCALARS = (
    "float16 float32 float64 longdouble int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool_ "
    "bool complex64 complex128 str_ bytes_ void datetime64 timedelta64 object_ intc uintc"
)
_PATHS = "Path PosixPath WindowsPath PurePosixPath PureWindowsPath PurePath"
_JOBLIB_ARRAYS = "NumpyArrayWrapper NDArrayWrapper ZNDArrayWrapper"


def _is_exception(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseException)


ALLOWED: frozenset[str] = frozenset(
    _names(
        "builtins",
        "set frozenset list dict tuple int float complex bool str bytes bytearray object slice "
        "range Ellipsis NotImplemented",
    )
    | {f"builtins.{name}" for name, kind in vars(builtins).items() if _is_exception(kind)}
    | _names(
        "collections", "OrderedDict defaultdict deque Counter ChainMap UserDict UserList UserString"
    )
    | _names("copyreg", "_reconstructor __newobj__ __newobj_ex__")
    | _names("_codecs", "encode")
    | _names("datetime", "datetime date time timedelta timezone tzinfo")
    | _names("zoneinfo", "ZoneInfo ZoneInfo._unpickle")
    | _names("re", "_compile")
    | _names("logging", "getLogger")
    | _names("operator", "itemgetter")
    | _names("decimal", "Decimal")
    | _names("fractions", "Fraction")
    | _names("uuid", "UUID")
    | _names("pathlib", _PATHS)
    | _names("pathlib._local", _PATHS)
    | _names("array", "array _array_reconstructor")
    | _names("argparse", "Namespace")
    | _names("types", "SimpleNamespace")
    | _names("random", "Random")
    | _names("numpy", f"ndarray dtype matrix recarray {_NUMPY_SCALARS}")
    | _names("numpy", "random.RandomState random.Generator")
    | {
        f"numpy.{core}.{name}"
        for core in ("core", "_core")
        for name in (
            "multiarray._reconstruct",
            "multiarray.scalar",
            "numeric._frombuffer",
            "_internal._convert_to_stringdtype_kwargs",
        )
    }
    | _names("numpy.matrixlib.defmatrix", "matrix")
    | _names("numpy.ma.core", "MaskedArray _mareconstruct")
    | _names("numpy.random", "RandomState Generator")
    | _names(
        "numpy.random._pickle",
        "__randomstate_ctor __generator_ctor __bit_generator_ctor",
    )
    | _names("numpy.random._mt19937", "MT19937")
    | _names("numpy.random._pcg64", "PCG64")
    | _names("torch", f"{_TORCH_STORAGES} {_TORCH_DTYPES} Size device Tensor")
    | _names("torch.storage", "UntypedStorage TypedStorage")
    | _names("torch.nn.parameter", "Parameter Buffer")
    | _names(
        "torch._utils",
        "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter "
        "_rebuild_parameter_with_state _rebuild_qtensor _rebuild_sparse_tensor "
        "_rebuild_meta_tensor_no_storage _rebuild_wrapper_subclass",
    )
    | _names("torch._tensor", "_rebuild_from_type_v2")
    | _names("torch.serialization", "_get_layout")
    | _names("pyarrow.lib", "type_for_alias py_buffer chunked_array _restore_array schema field")
    | _names("joblib.numpy_pickle", _JOBLIB_ARRAYS)
    | _names("sklearn.externals.joblib.numpy_pickle", _JOBLIB_ARRAYS)
)

# Gone from newer Pythons, or of other platforms; a pickle may name them all the same.
_OLD_STANDARD = words(
    "distutils lib2to3 asyncore asynchat imp httplib commands urllib2 urlparse popen2 posix nt "
    "ce os2 java thread dummy_thread ihooks user new compiler sets smtpd tkinter Tkinter "
    "__builtin__ __builtins__ cPickle copy_reg StringIO cStringIO exceptions cgi crypt nis pipes "
    "spwd telnetlib uu xdrlib aifc audioop chunk imghdr mailcap msilib nntplib ossaudiodev sndhdr "
    "sunau cgitb test _testcapi _pyrepl idlelib turtledemo ensurepip execfile whichdb dbhash "
    "anydbm dumbdbm gdbm BaseHTTPServer SimpleHTTPServer SocketServer xmlrpclib"
)
_STANDARD = frozenset(sys.stdlib_module_names) | _OLD_STANDARD
# Exact by its parts: these modules of well-known packages run, compile, load or fetch.
_DANGEROUS_MODULES = words("""
    numpy.f2py numpy.distutils numpy.testing numpy.lib.npyio numpy.ctypeslib numpy.compat
    numpy.core._internal scipy.weave scipy.io torch.utils.bottleneck torch.utils.collect_env
    torch.utils.cpp_extension torch.utils.hipify torch.utils.data.datapipes
    torch.utils._config_module
    torch.utils.model_dump torch.utils.show_pickle torch.utils.model_zoo torch.utils.benchmark
    torch.utils.tensorboard torch.utils.mobile_optimizer torch._inductor torch._dynamo
    torch._functorch torch._export torch._higher_order_ops torch._library torch._ops torch._lobpcg
    torch._C torch.ops torch.classes torch.export torch.fx torch.jit torch.hub torch.distributed
    torch.distributions.constraint_registry torch.multiprocessing torch.onnx torch.package
    torch.profiler torch.autograd.profiler torch.serialization torch.storage torch.testing
    torch.futures torch.library torch.compiler torch.monitor
    pandas.io pandas.eval pandas.core.computation pandas.util pandas.compat
    sklearn.utils._testing sklearn.datasets sklearn.externals
    transformers.utils.hub transformers.dynamic_module_utils transformers.pipelines
    tensorflow.python.ops.script_ops tensorflow.io keras.utils keras.layers.core.lambda_layer
    keras.src.layers.core.lambda_layer tensorflow.keras.utils
    pip setuptools pkg_resources wheel virtualenv easy_install _distutils_hack cffi pycparser
    cloudpickle dill pickle5 jsonpickle joblib.memory joblib.externals loky hickle
    requests urllib3 httpx httpcore aiohttp paramiko fabric invoke boto3 botocore s3fs fsspec
    smart_open tornado twisted gevent eventlet flask django werkzeug jinja2 mako pytest py nose
    IPython ipykernel jupyter_client jupyter_core notebook nbconvert pexpect ptyprocess sh plumbum
    psutil docker git dulwich click fire celery ray dask distributed numba llvmlite cython Cython
    pythonwin win32api win32com pywin32 jpype py4j execnet huggingface_hub wandb mlflow bentoml
    streamlit gradio yaml ruamel shellingham pyarrow.fs
    """)
# Within them, what only computes (`torch._C._nn.gelu`) or describes tensors of a checkpoint.
_HARMLESS_WITHIN = words("torch._C._nn torch.distributed.checkpoint.metadata")
# Classes that open a file as soon as one is made; harmless as the type of an array.
ACT_WHEN_MADE = frozenset({"numpy.memmap"})
# Functions that hold nothing and reach nothing; a pickle may refer to them, as a setting does.
_PURE = words("abs all any divmod hash len max min repr round sorted sum")
# What packages of data science call the functions that put an object together again.
_RECONSTRUCTOR = re.compile(
    r"(__pyx_unpickle_\w+|_+(re)?(construct|build|create|restore|unpickle|new|make)_?\w*|newObj|\w+_ctor|"
    r"_\w+_unpickle|_from_\w+|_unserialize\w*|_set_state|__setstate\w*)\Z",
    re.IGNORECASE,
)
_DATA_PACKAGES = words(
    "numpy scipy pandas sklearn torch torchvision torchaudio transformers xgboost lightgbm "
    "catboost "
    "statsmodels pyarrow sparse shapely geopandas spacy thinc gensim nltk PIL jax jaxlib flax "
    "haiku "
    "optax tensorflow keras skops imblearn networkx polars"
)
# The names of classes that are written in lower case.
_LOWER_CASE_CLASS = re.compile(
    r"(cs[rc]|bsr|coo|dia|dok|lil)_(matrix|array)|[a-z0-9]*(matrix|array|dtype|frame|series)"
    r"|rv_\w+|ufunc|parameter|generic|lil_\w+|booster"
)


def normalise(module: str, name: str) -> tuple[str, str]:
    """Return where Python 3 looks for what Python 2 called `module.name`."""
    if (module, name) in _compat_pickle.NAME_MAPPING:
        return _compat_pickle.NAME_MAPPING[(module, name)]
    if module == "__builtins__":
        return "builtins", name
    return _compat_pickle.IMPORT_MAPPING.get(module, module), name


def is_standard(module: str) -> bool:
    """Whether a module is of the standard library of some Python."""
    root = normalise(module, "")[0].partition(".")[0]
    return root in _STANDARD


def judge_import(module: str, name: str, called: bool) -> Judged:
    """Return what is thought of `module.name`, which a pickle imports and perhaps calls."""
    module, name = normalise(module, name)
    if f"{module}.{name}" in ALLOWED:
        return Judged("allowed", "on the allowlist")
    if (module, name) == ("torch.storage", "_load_from_bytes"):
        # How tensors outside a checkpoint are pickled; what is in the bytes is judged by itself.
        return Judged("unknown", "loads a pickle within the pickle")
    if f"{module}.{name}" in ACT_WHEN_MADE and not called:
        return Judged("allowed", "on the allowlist, and not called")
    root = module.partition(".")[0]
    if not _importable(module) or not _importable(name):
        return Judged("dangerous", "no name that an honest pickle would have")
    if module == "builtins" and name in _PURE and not called:
        return Judged("unknown", "a function that is referred to, and not called")
    if root in _STANDARD:
        return Judged("dangerous", "of the standard library and not on the allowlist")
    parts = f"{module}.{name}".split(".")
    prefixes = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    if not (_HARMLESS_WITHIN.intersection(prefixes) or _DANGEROUS_MODULES.isdisjoint(prefixes)):
        return Judged("dangerous", "of a module that runs, loads or fetches things")
    if any(part in _STANDARD and part not in _NO_MODULES for part in parts[1:]):
        return Judged("dangerous", "a way through one package to a module of the standard library")
    pieces = name.split(".")
    if called and len(pieces) > 1 and not all(_is_class(piece) for piece in pieces):
        return Judged("dangerous", "an attribute that is reached through another object")
    if root == "__main__":
        return Judged("unknown", "of the script that wrote it, which is not here")
    if called and not _is_class(pieces[-1]):
        if root in _DATA_PACKAGES and _RECONSTRUCTOR.match(pieces[-1]):
            return Judged("unknown", "a reconstructor that nobody has reviewed")
        return Judged("dangerous", "a function that is called and is not on the allowlist")
    return Judged("unknown", "not on the allowlist, and nobody has reviewed it")


# Parts of honest module paths that happen to be names in the standard library.
_NO_MODULES = words(
    "array numbers random types string copy calendar statistics parser symbol token tokenize "
    "test queue select struct signal graphlib json dataclasses enum typing math cmath datetime "
    "secrets html xml email wave colorsys config time abc fractions decimal locale collections "
    "new user sets operator"
)


def _importable(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _is_class(name: str) -> bool:
    bare = name.lstrip("_")
    return bare[:1].isupper() or _LOWER_CASE_CLASS.fullmatch(bare) is not None
