# Enables CUDA. nvcc is CMAKE_CUDA_COMPILER or CUDACXX where given, else the one that dev/setup.sh put into .venv (it
# does so only where the system's does not fit), else the system's.
# Afterwards the target IABN::cudart exists: the CUDA runtime, statically linked, so that the libraries carry no version
# of libcudart. CMake's own CUDAToolkit package refuses the toolkit in .venv, which has no unversioned libraries.
# IABN_CUDA_MAJOR is the runtime's version; in the toolkit of dev/cuda12_toolkit.sh it is not nvcc's.
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  file(GLOB _wheels ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/nvidia/cu*/bin)
  find_program(IABN_NVCC nvcc HINTS ${_wheels} $ENV{CUDA_HOME}/bin ENV PATH PATHS /usr/local/cuda/bin)
  if(NOT IABN_NVCC)
    message(
      FATAL_ERROR
      "IABN_CUDA is ON and there is no nvcc: run IABN_CUDA=1 dev/setup.sh, which installs one into .venv, or set "
      "CMAKE_CUDA_COMPILER, or configure with -DIABN_CUDA=OFF"
    )
  endif()
  set(CMAKE_CUDA_COMPILER ${IABN_NVCC})
  if(IABN_NVCC MATCHES "/\\.venv/")
    # The wheels name their library folder lib, nvcc's own profile looks in lib64.
    cmake_path(GET IABN_NVCC PARENT_PATH _root)
    cmake_path(GET _root PARENT_PATH _root)
    set(CMAKE_CUDA_FLAGS_INIT "-L${_root}/lib")
  endif()
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
  message(
    FATAL_ERROR
    "${CMAKE_CUDA_COMPILER} is CUDA ${CMAKE_CUDA_COMPILER_VERSION}; 12.8 is the oldest that knows every architecture "
    "here. Run IABN_CUDA=1 dev/setup.sh, which installs one into .venv, or set CMAKE_CUDA_COMPILER to a newer one"
  )
endif()

find_path(
  IABN_CUDART_INCLUDE_DIR
  cuda_runtime_api.h
  HINTS ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES}
  NO_DEFAULT_PATH
  REQUIRED
)
find_library(
  IABN_CUDART_LIBRARY
  libcudart_static.a
  HINTS ${CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES} ${IABN_CUDART_INCLUDE_DIR}/../lib ${IABN_CUDART_INCLUDE_DIR}/../lib64
  REQUIRED
)
file(STRINGS ${IABN_CUDART_INCLUDE_DIR}/cuda_runtime_api.h _version REGEX "^#define CUDART_VERSION ")
string(REGEX REPLACE ".* ([0-9]+)[0-9][0-9][0-9]$" "\\1" IABN_CUDA_MAJOR "${_version}")
mark_as_advanced(IABN_NVCC IABN_CUDART_INCLUDE_DIR IABN_CUDART_LIBRARY)
find_package(Threads REQUIRED)
add_library(IABN::cudart INTERFACE IMPORTED)
target_include_directories(IABN::cudart INTERFACE ${IABN_CUDART_INCLUDE_DIR})
target_link_libraries(IABN::cudart INTERFACE ${IABN_CUDART_LIBRARY} Threads::Threads ${CMAKE_DL_LIBS} rt)
