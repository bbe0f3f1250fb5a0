# Finds LibTorch inside a PyTorch wheel or a LibTorch archive, without needing a CUDA toolkit (PyTorch's own package
# file needs one even for CPU-only code). Looks at LIBTORCH_ROOT (the folder that holds include/ and lib/), then asks
# the Python of .venv, then python3.
#
# Targets: LibTorch::headers  include directories only
#          LibTorch::stable   + libtorch_cpu, for code on the stable ABI
#          LibTorch::torch    + the C++ API (torch/torch.h)
#          LibTorch::cuda     libtorch_cuda and libc10_cuda, where the wheel has them
set(LIBTORCH_ROOT "" CACHE PATH "Folder of LibTorch: holds include/ and lib/")
if(NOT LIBTORCH_ROOT)
  find_program(
    IABN_PYTHON
    NAMES python3
    HINTS ${PROJECT_SOURCE_DIR}/.venv/bin
    NO_CMAKE_FIND_ROOT_PATH)
  if(IABN_PYTHON)
    execute_process(
      COMMAND ${IABN_PYTHON} -c
              "import importlib.util as u, os; s = u.find_spec('torch'); print(os.path.dirname(s.origin) if s else '')"
      OUTPUT_VARIABLE _libtorch_root
      OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    if(_libtorch_root)
      set_property(CACHE LIBTORCH_ROOT PROPERTY VALUE "${_libtorch_root}")
    endif()
  endif()
endif()

find_path(
  LIBTORCH_INCLUDE_DIR torch/csrc/stable/library.h
  HINTS ${LIBTORCH_ROOT}/include
  NO_DEFAULT_PATH)
foreach(_name torch torch_cpu c10 torch_cuda c10_cuda)
  find_library(
    LIBTORCH_${_name}_LIBRARY ${_name}
    HINTS ${LIBTORCH_ROOT}/lib
    NO_DEFAULT_PATH)
  mark_as_advanced(LIBTORCH_${_name}_LIBRARY)
endforeach()
mark_as_advanced(LIBTORCH_INCLUDE_DIR)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  LibTorch
  REQUIRED_VARS LIBTORCH_torch_LIBRARY LIBTORCH_torch_cpu_LIBRARY LIBTORCH_c10_LIBRARY LIBTORCH_INCLUDE_DIR
  REASON_FAILURE_MESSAGE
    "install PyTorch 2.10 or newer (dev/setup.sh does, into .venv) or set LIBTORCH_ROOT to the folder of a LibTorch")

if(LibTorch_FOUND AND NOT TARGET LibTorch::torch)
  add_library(LibTorch::headers INTERFACE IMPORTED)
  target_include_directories(LibTorch::headers SYSTEM INTERFACE ${LIBTORCH_INCLUDE_DIR}
                                                                ${LIBTORCH_INCLUDE_DIR}/torch/csrc/api/include)
  add_library(LibTorch::stable INTERFACE IMPORTED)
  # The linker would drop libtorch_cpu from a library that only calls its C shim lazily.
  target_link_libraries(LibTorch::stable INTERFACE LibTorch::headers -Wl,--no-as-needed ${LIBTORCH_torch_cpu_LIBRARY}
                                                   -Wl,--as-needed)
  add_library(LibTorch::torch INTERFACE IMPORTED)
  target_link_libraries(LibTorch::torch INTERFACE LibTorch::headers ${LIBTORCH_torch_LIBRARY}
                                                  ${LIBTORCH_torch_cpu_LIBRARY} ${LIBTORCH_c10_LIBRARY})
  if(LIBTORCH_torch_cuda_LIBRARY AND LIBTORCH_c10_cuda_LIBRARY)
    add_library(LibTorch::cuda INTERFACE IMPORTED)
    target_link_libraries(LibTorch::cuda INTERFACE LibTorch::headers -Wl,--no-as-needed ${LIBTORCH_torch_cuda_LIBRARY}
                                                   ${LIBTORCH_c10_cuda_LIBRARY} -Wl,--as-needed)
  endif()
endif()
