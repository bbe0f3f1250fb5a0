# Installed files find each other relatively, and LibTorch where it was at build time unless this is set otherwise (to
# nothing for a package whose user has LibTorch loaded already, to an $ORIGIN path for a wheel).
set(
  IABN_INSTALL_LIBTORCH_RPATH
  "${LIBTORCH_ROOT}/lib"
  CACHE STRING
  "Where installed libraries and the program look for LibTorch"
)
set(CMAKE_INSTALL_RPATH "$ORIGIN;$ORIGIN/../lib;${IABN_INSTALL_LIBTORCH_RPATH}")
