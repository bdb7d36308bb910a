# find_package(rnnkern) and pkg-config rnnkern.
include(CMakePackageConfigHelpers)
install(TARGETS rnnkern EXPORT rnnkern-targets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT c
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT c  # Windows: the import library, and the DLL in bin
        RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT c)
install(DIRECTORY csrc/include/rnnkern DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT c)
install(EXPORT rnnkern-targets NAMESPACE rnnkern:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/rnnkern COMPONENT c)
file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/rnnkern-config.cmake
     "include(\${CMAKE_CURRENT_LIST_DIR}/rnnkern-targets.cmake)\n")
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/rnnkern-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
# The paths in it are relative to the file itself, so that an installed tree can be moved.
file(RELATIVE_PATH rnnk_prefix ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
file(RELATIVE_PATH rnnk_libdir ${CMAKE_INSTALL_PREFIX} ${CMAKE_INSTALL_FULL_LIBDIR})
file(RELATIVE_PATH rnnk_includedir ${CMAKE_INSTALL_PREFIX} ${CMAKE_INSTALL_FULL_INCLUDEDIR})
file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/rnnkern.pc @ONLY CONTENT
"prefix=\${pcfiledir}/@rnnk_prefix@
includedir=\${prefix}/@rnnk_includedir@
libdir=\${prefix}/@rnnk_libdir@

Name: rnnkern
Description: Fused LSTM, GRU and Elman kernels, forward and back-propagation through time
Version: @PROJECT_VERSION@
Cflags: -I\${includedir}
Libs: -L\${libdir} -lrnnkern
")
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/rnnkern-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/rnnkern-config-version.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/rnnkern COMPONENT c)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/rnnkern.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT c)
