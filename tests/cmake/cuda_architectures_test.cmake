# cmake -P: TORCH_CUDA_ARCH_LIST as people write it gives the CMAKE_CUDA_ARCHITECTURES meant, or an error that says what
# is wrong. With LIST set, only parses it (the error cases run in a process of their own).
cmake_minimum_required(VERSION 3.25)
set(module ${CMAKE_CURRENT_LIST_DIR}/../../cmake/cuda_architectures.cmake)
if(DEFINED LIST)
  set(TORCH_CUDA_ARCH_LIST "${LIST}")
  include(${module})
  return()
endif()

function(expect_parsed list expected)
  set(CMAKE_CUDA_ARCHITECTURES "")
  set(TORCH_CUDA_ARCH_LIST "${list}")
  include(${module})
  if(NOT CMAKE_CUDA_ARCHITECTURES STREQUAL expected)
    message(SEND_ERROR "\"${list}\": expected \"${expected}\", got \"${CMAKE_CUDA_ARCHITECTURES}\"")
  endif()
endfunction()

function(expect_error list message)
  execute_process(
    COMMAND ${CMAKE_COMMAND} "-DLIST=${list}" -P ${CMAKE_CURRENT_FUNCTION_LIST_FILE}
    RESULT_VARIABLE status
    OUTPUT_QUIET
    ERROR_VARIABLE output
  )
  string(REGEX REPLACE "[ \n]+" " " output "${output}")
  string(FIND "${output}" "${message}" found)
  if(status EQUAL 0 OR found EQUAL -1)
    message(SEND_ERROR "\"${list}\": expected the error \"${message}\", got status ${status} and \"${output}\"")
  endif()
endfunction()

set(ENV{TORCH_CUDA_ARCH_LIST} "")
expect_parsed("9.0" "90a-real")
expect_parsed("8.0;9.0+PTX" "80-real;90a-real;90-virtual")
expect_parsed(" 8.0, 8.6 8.9 " "80-real;86-real;89-real")
expect_parsed("9.0a;10.0a;12.0" "90a-real;100a-real;120-real")
expect_parsed("Ampere Hopper" "80-real;86-real;90a-real")
expect_parsed("Blackwell+PTX" "100;120")
expect_parsed("Hopper;9.0" "90a-real")
expect_parsed("8.0;" "80-real")
expect_parsed("" "75-real;80-real;86-real;89-real;90a-real;100-real;120")
set(ENV{TORCH_CUDA_ARCH_LIST} "7.5")
expect_parsed("" "75-real")
expect_parsed("9.0" "90a-real")
set(ENV{TORCH_CUDA_ARCH_LIST} "")

expect_error("Hoper" "\"Hoper\" is neither a compute capability such as 9.0")
expect_error("sm_90" "\"sm_90\" is neither")
expect_error("90" "\"90\" is neither")
expect_error("9.0+ptx" "\"9.0+ptx\" is neither")
expect_error("Volta" "nor one of Turing, Ampere, Ada, Hopper, Blackwell")
expect_error("8.0;7.0" "\"7.0\" is older than 7.5, the oldest that CUDA 13 compiles for")
expect_error(" ; " "names no architecture")
