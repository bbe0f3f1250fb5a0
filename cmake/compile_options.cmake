# iabn_compile_options(target): warnings as errors and the chosen sanitizers, on this project's targets only.
function(iabn_compile_options target)
  target_compile_options(
    ${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Werror>
                      $<$<COMPILE_LANGUAGE:CUDA>:--Werror=all-warnings -Xcompiler=-Wall,-Wextra,-Werror>)
  if(IABN_SANITIZE)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${IABN_SANITIZE}
                                             -fno-omit-frame-pointer>)
    target_link_options(${target} PRIVATE -fsanitize=${IABN_SANITIZE})
  endif()
endfunction()
