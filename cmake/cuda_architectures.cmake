# Sets CMAKE_CUDA_ARCHITECTURES from TORCH_CUDA_ARCH_LIST (environment or cache; numbers such as "8.0;9.0+PTX" or names
# such as "Ampere Hopper"), unless it is already set. Never asks a device, so that a machine without a GPU can build.
set(IABN_DEFAULT_ARCH_LIST "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX")

# iabn_parse_arch_list(<list> <output variable>): the list in CMake's spelling, or a fatal error that names the bad entry.
function(iabn_parse_arch_list arch_list output)
  set(name_Turing 7.5)
  set(name_Ampere 8.0 8.6)
  set(name_Ada 8.9)
  set(name_Hopper 9.0)
  set(name_Blackwell 10.0 12.0)
  string(REGEX REPLACE "[ ,;]+" ";" entries "${arch_list}")
  list(REMOVE_ITEM entries "")
  set(result "")
  foreach(entry IN LISTS entries)
    string(REGEX REPLACE "\\+PTX$" "" base "${entry}")
    if(DEFINED name_${base})
      set(numbers ${name_${base}})
    else()
      set(numbers ${base})
    endif()
    foreach(number IN LISTS numbers)
      if(NOT number MATCHES "^([0-9]+)\\.([0-9])(a?)$")
        message(
          FATAL_ERROR
          "TORCH_CUDA_ARCH_LIST: \"${entry}\" is neither a compute capability such as 9.0 or 9.0+PTX "
          "nor one of Turing, Ampere, Ada, Hopper, Blackwell"
        )
      endif()
      set(arch "${CMAKE_MATCH_1}${CMAKE_MATCH_2}${CMAKE_MATCH_3}")
      if("${CMAKE_MATCH_1}${CMAKE_MATCH_2}" LESS 75)
        message(
          FATAL_ERROR
          "TORCH_CUDA_ARCH_LIST: \"${entry}\" is older than 7.5, the oldest that CUDA 13 compiles for"
        )
      endif()
      # sm_90a runs on every device of compute capability 9.0 and has the instructions of the slab kernels; its PTX would
      # run nowhere else.
      if(arch STREQUAL "90" OR arch STREQUAL "90a")
        list(APPEND result "90a-real")
        if(entry MATCHES "\\+PTX$")
          list(APPEND result "90-virtual")
        endif()
      elseif(entry MATCHES "\\+PTX$")
        list(APPEND result "${arch}")
      else()
        list(APPEND result "${arch}-real")
      endif()
    endforeach()
  endforeach()
  if(NOT result)
    message(FATAL_ERROR "TORCH_CUDA_ARCH_LIST names no architecture: give numbers such as \"8.0;9.0+PTX\" or names")
  endif()
  list(REMOVE_DUPLICATES result)
  set(${output} "${result}" PARENT_SCOPE)
endfunction()

if(NOT CMAKE_CUDA_ARCHITECTURES)
  if(NOT TORCH_CUDA_ARCH_LIST)
    set(_arch_list "$ENV{TORCH_CUDA_ARCH_LIST}")
    if(NOT _arch_list)
      set(_arch_list "${IABN_DEFAULT_ARCH_LIST}")
    endif()
    # In the cache, so that configuring again in another shell does not change the architectures and rebuild everything;
    # and as a variable, which an empty one of this name would hide.
    set(TORCH_CUDA_ARCH_LIST "${_arch_list}" CACHE STRING "CUDA architectures, as numbers or names" FORCE)
    set(TORCH_CUDA_ARCH_LIST "${_arch_list}")
  endif()
  iabn_parse_arch_list("${TORCH_CUDA_ARCH_LIST}" CMAKE_CUDA_ARCHITECTURES)
endif()
message(STATUS "iabn: CUDA architectures ${CMAKE_CUDA_ARCHITECTURES}")
