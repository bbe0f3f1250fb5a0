# The libraries as the Python wheel carries them: no path of the build machine, libstdc++ inside, and nothing newer than
# glibc 2.28, which is PyTorch's own floor. dev/audit_wheel.py checks the result.
#
# Note [glibc 2.28]: glibc 2.34 merged libpthread, libdl and librt into libc and gave their functions new versions, so
# that whatever is linked on such a system, the static CUDA runtime above all, refuses to load on an older one. The old
# versions are still there. The libraries are therefore linked against stand-ins for the three files and libm. These
# hold the names below with their old versions and no code, and are never installed. Everything else comes from the
# system's own glibc; a name that is missing below shows as a too new version in the audit.
# libgcc_s stays a shared library: GCC 12's static one needs glibc 2.35, and LibTorch has loaded the shared one anyway.
set(CMAKE_INSTALL_RPATH "")
set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)
file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/no_exports.map CONTENT "{ local: *; };\n")
add_library(iabn_wheel INTERFACE)
# Operators are registered when the library is loaded; nobody looks up a symbol in it.
target_link_options(
  iabn_wheel
  INTERFACE -static-libstdc++ -Wl,--gc-sections -Wl,--version-script,${PROJECT_BINARY_DIR}/no_exports.map
)

# The wheel of a machine without a fitting nvcc has the CPU operators alone.
if(IABN_CUDA STREQUAL "auto")
  find_program(IABN_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin ENV PATH PATHS /usr/local/cuda/bin)
  set(_nvcc ${IABN_NVCC})
  if(DEFINED ENV{CUDACXX})
    set(_nvcc $ENV{CUDACXX})
  endif()
  set(_found "")
  if(_nvcc)
    execute_process(COMMAND ${_nvcc} --version OUTPUT_VARIABLE _found ERROR_QUIET)
  endif()
  if("${_found}" MATCHES "release ([0-9.]+)" AND CMAKE_MATCH_1 VERSION_GREATER_EQUAL 12.8 AND TARGET LibTorch::cuda)
    set(IABN_CUDA ON)
  else()
    set(IABN_CUDA OFF)
    message(STATUS "iabn: no nvcc of CUDA 12.8 or newer, or PyTorch without CUDA: this wheel has no CUDA operators")
  endif()
endif()

set(IABN_CUDA12_LIBRARY "" CACHE FILEPATH "A libiabn_ops_cuda12.so, built before, to add to the wheel")
if(IABN_CUDA12_LIBRARY)
  install(FILES ${IABN_CUDA12_LIBRARY} DESTINATION iabn/lib)
endif()

if(NOT CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64" OR NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
  return() # other machines have other base versions
endif()

set(
  _libpthread.so.0
  pthread_attr_destroy
  pthread_attr_init
  pthread_attr_setdetachstate
  pthread_condattr_setpshared
  pthread_create
  pthread_detach
  pthread_getspecific
  pthread_join
  pthread_key_create
  __pthread_key_create
  pthread_key_delete
  pthread_kill
  pthread_mutex_trylock
  pthread_mutexattr_destroy
  pthread_mutexattr_init
  pthread_mutexattr_setpshared
  pthread_mutexattr_settype
  pthread_once
  pthread_rwlock_destroy
  pthread_rwlock_init
  pthread_rwlock_rdlock
  pthread_rwlock_timedrdlock
  pthread_rwlock_timedwrlock
  pthread_rwlock_tryrdlock
  pthread_rwlock_trywrlock
  pthread_rwlock_unlock
  pthread_rwlock_wrlock
  pthread_rwlockattr_destroy
  pthread_rwlockattr_init
  pthread_rwlockattr_setpshared
  pthread_setspecific
  pthread_spin_destroy
  pthread_spin_init
  pthread_spin_lock
  pthread_spin_trylock
  pthread_spin_unlock
  sem_destroy
  sem_init
  sem_post
  sem_timedwait
  sem_trywait
  sem_wait
)
set(
  _libdl.so.2
  dlclose
  dlerror
  dlopen
  dlsym
  dlvsym
)
set(_librt.so.1 shm_open shm_unlink)
set(_libm.so.6 exp log log2 pow)

set(_folder ${PROJECT_BINARY_DIR}/glibc_2_28)
foreach(soname libpthread.so.0 libdl.so.2 librt.so.1 libm.so.6)
  string(REGEX REPLACE "^lib([a-z]+)\\..*" "glibc_2_28_\\1" target ${soname})
  list(TRANSFORM _${soname} REPLACE "(.+)" "extern \"C\" void \\1() {}" OUTPUT_VARIABLE code)
  list(JOIN code "\n" code)
  list(JOIN _${soname} "; " names)
  set(versions "GLIBC_2.2.5 { global: ${names}; local: *; };")
  if(soname STREQUAL "libdl.so.2")
    string(APPEND code "\nextern \"C\" void dlmopen() {}")
    string(APPEND versions "\nGLIBC_2.3.4 { global: dlmopen; } GLIBC_2.2.5;")
  endif()
  file(CONFIGURE OUTPUT ${_folder}/${target}.cpp CONTENT "${code}\n")
  file(CONFIGURE OUTPUT ${_folder}/${target}.map CONTENT "${versions}\n")
  add_library(${target} SHARED ${_folder}/${target}.cpp)
  set_target_properties(
    ${target}
    PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${_folder} NO_SONAME ON CXX_VISIBILITY_PRESET default
  )
  target_compile_options(${target} PRIVATE -w -fno-builtin)
  target_link_options(${target} PRIVATE -nostdlib -Wl,-soname,${soname} -Wl,--version-script,${_folder}/${target}.map)
  list(APPEND _stand_ins ${target})
endforeach()
# As PyTorch's own libraries, needed or not: a weak reference alone would not count as a need.
target_link_libraries(iabn_wheel INTERFACE -Wl,--push-state,--no-as-needed ${_stand_ins} -Wl,--pop-state)
# libstdc++'s atomics read this flag, new in 2.32, to spare a locked instruction while there is one thread; 0 says that
# there may be more.
file(
  CONFIGURE
  OUTPUT ${_folder}/single_threaded.cpp
  CONTENT "extern \"C\" {\n__attribute__((visibility(\"hidden\"))) char __libc_single_threaded = 0;\n}\n"
)
add_library(iabn_single_threaded OBJECT ${_folder}/single_threaded.cpp)
target_link_libraries(iabn_wheel INTERFACE iabn_single_threaded $<TARGET_OBJECTS:iabn_single_threaded>)
