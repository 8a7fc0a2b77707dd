"""Tensors of a program into slots: checked, so that nothing is cast or cut in silence."""

import sys

import numpy as np

from .errors import DeviceError, TensorError

# Devices of DLPack whose memory the processor reads: CPU, and CUDA's pinned memory.
HOST_DEVICES = (1, 3)
PIXELS = {1: "gray8", 3: "rgb8"}


def copy_into(slot, name, datatype, into, value):
    """Copies `value` into the input `name`, whose place is `into`."""
    if _is_on_device(value):
        _copy_from_device(slot, name, datatype, into, value)
        return
    array = _on_host(name, value)
    if datatype == "BF16" and array.dtype.name == "bfloat16":  # of ml_dtypes
        array = array.view(np.uint16)
    _check(name, datatype, tuple(into.shape), array.shape, _dtype(into), array.dtype)
    if isinstance(into, np.ndarray):
        into[...] = array
    else:  # cuda-ipc: the slot lies on the device
        slot._set_input(name, array.tobytes())


def fill(slot, inputs):
    """Fills a slot with a mapping of names, or with the one input that the model has."""
    if not hasattr(inputs, "keys"):
        names = slot.keys()
        if len(names) != 1:
            raise TensorError(f"the model has the inputs {names}: give a mapping, name to array")
        slot[names[0]] = inputs
        return slot
    given, names = list(inputs.keys()), slot.keys()
    missing = [name for name in names if name not in given]
    if missing:
        raise TensorError(f"inputs that are missing: {missing}; the model has {names}")
    for name in given:
        slot[name] = inputs[name]
    return slot


def set_raw(slot, pixels, format=None):
    """Makes the request of an array of height × width, or height × width × 3."""
    array = np.asarray(pixels)
    shape = array.shape
    channels = 1 if array.ndim == 2 else shape[-1] if array.ndim == 3 else 0
    if array.dtype != np.uint8 or channels not in PIXELS:
        raise TensorError(
            f"pixels of {array.dtype} {list(shape)}: give uint8 of height × width × 3 (RGB; "
            "format='bgr8' for OpenCV's order) or height × width"
        )
    slot._set_raw(shape[1], shape[0], format or PIXELS[channels], array.tobytes())


def _on_host(name, value):
    if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack__"):
        return np.asarray(value)
    try:
        return np.from_dlpack(value)
    except (BufferError, TypeError, RuntimeError) as why:
        raise TensorError(
            f"input {name!r}: the tensor cannot be read ({why}); detach it, or give "
            "numpy.asarray(...) of it"
        ) from why


def _check(name, datatype, wanted_shape, shape, wanted, dtype):
    if tuple(shape) != wanted_shape:
        raise TensorError(
            f"input {name!r} has the shape {list(wanted_shape)}, and {list(shape)} was given: "
            "reshape it, or open the session with shapes={...} where the model leaves dimensions open"
        )
    if np.dtype(dtype) != wanted:
        fix = f"convert it with astype({wanted.name!r}), or write slot[{name!r}][...] = x, which casts"
        if datatype == "BF16":
            fix = "convert it with astype(ml_dtypes.bfloat16), or give its bits as uint16"
        raise TensorError(f"input {name!r} is {datatype}, and {np.dtype(dtype)} was given: {fix}")


def _dtype(into):
    if isinstance(into, np.ndarray):
        return into.dtype
    return np.dtype(into.__cuda_array_interface__["typestr"])


def _is_on_device(value):
    if isinstance(value, np.ndarray):
        return False
    device = getattr(value, "__dlpack_device__", None)
    if device is not None:
        return int(device()[0]) not in HOST_DEVICES
    return hasattr(value, "__cuda_array_interface__")


def _copy_from_device(slot, name, datatype, into, value):
    interface = getattr(value, "__cuda_array_interface__", None)
    if isinstance(into, np.ndarray) or interface is None:
        raise DeviceError(
            f"input {name!r}: the tensor is on {getattr(value, 'device', 'another device')}, and the "
            "slot is in memory of the host: give value.cpu(), or open the session with "
            "transport='cuda-ipc' for a model on a GPU of this host"
        )
    shape, dtype = interface["shape"], np.dtype(interface["typestr"])
    _check(name, datatype, tuple(into.shape), shape, _dtype(into), dtype)
    if interface.get("strides") is not None:
        raise TensorError(f"input {name!r}: the tensor is not contiguous: give value.contiguous()")
    _wait_for(value)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    slot._copy_from_device(name, interface["data"][0], size)


def _wait_for(value):
    """What computes the tensor must be over before it is copied."""
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and isinstance(value, torch.Tensor):
        torch.cuda.current_stream(value.device).synchronize()
    elif cupy is not None and isinstance(value, cupy.ndarray):
        cupy.cuda.get_current_stream().synchronize()
