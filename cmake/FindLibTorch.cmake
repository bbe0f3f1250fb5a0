# Finds LibTorch inside a PyTorch wheel or a LibTorch archive, without needing a CUDA toolkit (PyTorch's own package
# file needs one even for CPU-only code). Looks at LIBTORCH_ROOT (the folder that holds include/ and lib/), then asks
# the Python of .venv, then python3.
#
# Targets: LibTorch::headers  include directories of the header-only and stable parts
#          LibTorch::stable   + libtorch_cpu, for code on the stable ABI
#          LibTorch::torch    the C++ API (torch/torch.h); libtorch itself holds no code and would load all of CUDA
#          LibTorch::cuda     libtorch_cuda and libc10_cuda, where the wheel has them
set(LIBTORCH_ROOT "" CACHE PATH "Folder of LibTorch: holds include/ and lib/")
if(NOT LIBTORCH_ROOT)
  find_program(IABN_PYTHON NAMES python3 HINTS ${PROJECT_SOURCE_DIR}/.venv/bin NO_CMAKE_FIND_ROOT_PATH)
  mark_as_advanced(IABN_PYTHON)
  if(IABN_PYTHON)
    execute_process(
      COMMAND
        ${IABN_PYTHON} -c
        "import importlib.util as u, os; s = u.find_spec('torch'); print(os.path.dirname(s.origin) if s else '')"
      OUTPUT_VARIABLE _libtorch_root
      OUTPUT_STRIP_TRAILING_WHITESPACE
      ERROR_QUIET
    )
    if(_libtorch_root)
      set_property(CACHE LIBTORCH_ROOT PROPERTY VALUE "${_libtorch_root}")
    else()
      unset(IABN_PYTHON CACHE) # a later run may find one that has PyTorch
    endif()
  endif()
endif()

set(_libtorch_names torch_cpu c10 torch_cuda c10_cuda)
if(NOT "${LIBTORCH_ROOT}" STREQUAL "${LIBTORCH_ROOT_SEARCHED}")
  unset(LIBTORCH_INCLUDE_DIR CACHE)
  foreach(_name IN LISTS _libtorch_names)
    unset(LIBTORCH_${_name}_LIBRARY CACHE)
  endforeach()
  set(LIBTORCH_ROOT_SEARCHED "${LIBTORCH_ROOT}" CACHE INTERNAL "LIBTORCH_ROOT of the cached results")
endif()
find_path(LIBTORCH_INCLUDE_DIR torch/csrc/stable/library.h HINTS ${LIBTORCH_ROOT}/include NO_DEFAULT_PATH)
foreach(_name IN LISTS _libtorch_names)
  find_library(LIBTORCH_${_name}_LIBRARY ${_name} HINTS ${LIBTORCH_ROOT}/lib NO_DEFAULT_PATH)
  mark_as_advanced(LIBTORCH_${_name}_LIBRARY)
endforeach()
mark_as_advanced(LIBTORCH_INCLUDE_DIR)

if(LIBTORCH_INCLUDE_DIR)
  file(
    STRINGS ${LIBTORCH_INCLUDE_DIR}/torch/headeronly/version.h
    _libtorch_lines
    REGEX "^#define TORCH_VERSION_[A-Z]+ "
  )
  foreach(_part MAJOR MINOR PATCH)
    string(REGEX REPLACE ".*TORCH_VERSION_${_part} ([0-9]+).*" "\\1" LibTorch_VERSION_${_part} "${_libtorch_lines}")
  endforeach()
  set(LibTorch_VERSION ${LibTorch_VERSION_MAJOR}.${LibTorch_VERSION_MINOR}.${LibTorch_VERSION_PATCH})
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  LibTorch
  REQUIRED_VARS LIBTORCH_torch_cpu_LIBRARY LIBTORCH_c10_LIBRARY LIBTORCH_INCLUDE_DIR
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE
    "install PyTorch 2.10 or newer (dev/setup.sh does, into .venv) or set LIBTORCH_ROOT to the folder of a LibTorch"
)

if(LibTorch_FOUND AND NOT TARGET LibTorch::torch)
  add_library(LibTorch::headers INTERFACE IMPORTED)
  target_include_directories(LibTorch::headers INTERFACE ${LIBTORCH_INCLUDE_DIR})
  add_library(LibTorch::stable INTERFACE IMPORTED)
  # The linker would drop libtorch_cpu from a library that only calls its C shim lazily.
  target_link_libraries(
    LibTorch::stable
    INTERFACE LibTorch::headers -Wl,--no-as-needed ${LIBTORCH_torch_cpu_LIBRARY} -Wl,--as-needed
  )
  add_library(LibTorch::torch INTERFACE IMPORTED)
  target_include_directories(LibTorch::torch INTERFACE ${LIBTORCH_INCLUDE_DIR}/torch/csrc/api/include)
  target_link_libraries(
    LibTorch::torch
    INTERFACE LibTorch::headers ${LIBTORCH_torch_cpu_LIBRARY} ${LIBTORCH_c10_LIBRARY}
  )
  if(LIBTORCH_torch_cuda_LIBRARY AND LIBTORCH_c10_cuda_LIBRARY)
    add_library(LibTorch::cuda INTERFACE IMPORTED)
    target_link_libraries(
      LibTorch::cuda
      INTERFACE
        LibTorch::headers
        -Wl,--no-as-needed
        ${LIBTORCH_torch_cuda_LIBRARY}
        ${LIBTORCH_c10_cuda_LIBRARY}
        -Wl,--as-needed
    )
  endif()
endif()
