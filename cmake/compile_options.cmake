# The build type of the sanitizer presets: fast enough to run every test, line numbers in the reports.
# project() has put an empty string there.
if(NOT CMAKE_CXX_FLAGS_SANITIZE)
  set(CMAKE_CXX_FLAGS_SANITIZE "-O1 -g1" CACHE STRING "Compiler flags of the build type Sanitize" FORCE)
endif()
set(CMAKE_EXE_LINKER_FLAGS_SANITIZE "" CACHE STRING "Linker flags of the build type Sanitize")
set(CMAKE_SHARED_LINKER_FLAGS_SANITIZE "" CACHE STRING "Linker flags of the build type Sanitize")
mark_as_advanced(CMAKE_CXX_FLAGS_SANITIZE CMAKE_EXE_LINKER_FLAGS_SANITIZE CMAKE_SHARED_LINKER_FLAGS_SANITIZE)

# iabn_compile_options(target): warnings as errors and the chosen sanitizers, on this project's targets only.
function(iabn_compile_options target)
  # GCC 12 sees overlapping copies in plain std::string concatenation (its bug 105651).
  set(cxx_options -Wall -Wextra -Werror $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
  set(
    cuda_options
    --Werror=all-warnings
    -Xcompiler=-Wall,-Wextra,-Werror
    $<$<CXX_COMPILER_ID:GNU>:-Xcompiler=-Wno-restrict>
  )
  if(IABN_SANITIZE)
    # vptr checks need type information that LibTorch does not export; instrumented code confuses GCC's flow analysis.
    set(sanitizers -fsanitize=${IABN_SANITIZE} -fno-sanitize=vptr -fno-sanitize-recover=all)
    list(APPEND cxx_options ${sanitizers} -fno-omit-frame-pointer $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
    target_link_options(${target} PRIVATE ${sanitizers})
  endif()
  target_compile_options(
    ${target}
    PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${cxx_options}>" "$<$<COMPILE_LANGUAGE:CUDA>:${cuda_options}>"
  )
endfunction()
