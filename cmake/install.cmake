# Installs the libraries, the program, the public headers and the package file for find_package(iabn).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/iabn)

set(_libraries iabn_ops iabn)
if(IABN_CUDA)
  list(APPEND _libraries iabn_ops_cuda)
endif()
install(TARGETS ${_libraries} EXPORT iabnTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(IABN_PROGRAM)
  install(TARGETS iabn_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

install(DIRECTORY iabn/nn iabn/models DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/iabn FILES_MATCHING PATTERN "*.h")
# What those headers include.
install(FILES iabn/activation.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/iabn)
install(FILES iabn/kernels/kernels.h iabn/kernels/view.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/iabn/kernels)

install(EXPORT iabnTargets NAMESPACE iabn:: DESTINATION ${_package_dir})
configure_package_config_file(
  cmake/iabnConfig.cmake.in
  ${PROJECT_BINARY_DIR}/iabnConfig.cmake
  INSTALL_DESTINATION ${_package_dir}
)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/iabnConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(
  FILES ${PROJECT_BINARY_DIR}/iabnConfig.cmake ${PROJECT_BINARY_DIR}/iabnConfigVersion.cmake cmake/FindLibTorch.cmake
  DESTINATION ${_package_dir}
)
