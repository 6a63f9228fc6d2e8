# What `cmake --install` copies: headers, libraries, programs, documents; the package that find_package(dsv4) finds, and a
# pkg-config file for each library. Nothing in it names a folder of the build machine: a prefix may be moved.
#
# Everything belongs to the install component `dsv4`, so that a project that has dsv4 in a subfolder can leave it out.
include_guard(GLOBAL)
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# Where the reference's headers go, whose own folder has too common a name for /usr/include: #include "reference/x.hpp".
set(DSV4_REFERENCE_INCLUDEDIR ${CMAKE_INSTALL_INCLUDEDIR}/dsv4-reference)

# dsv4_pkg_config(NAME DESCRIPTION text [CFLAGS flag...] [LIBS flag...] [LIBS_PRIVATE flag...] [REQUIRES module...])
function(dsv4_pkg_config name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "DESCRIPTION" "CFLAGS;LIBS;LIBS_PRIVATE;REQUIRES")
  set(dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
  # pkg-config knows the folder of its file, and from there the prefix.
  set(root /)
  cmake_path(ABSOLUTE_PATH dir BASE_DIRECTORY ${root} OUTPUT_VARIABLE from)
  cmake_path(RELATIVE_PATH root BASE_DIRECTORY ${from} OUTPUT_VARIABLE up)
  cmake_path(SET up NORMALIZE "${up}/.")
  string(REGEX REPLACE "/$" "" up "${up}")
  set(text "prefix=\${pcfiledir}/${up}\nincludedir=\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}\n")
  string(APPEND text "libdir=\${prefix}/${CMAKE_INSTALL_LIBDIR}\n\n")
  string(APPEND text "Name: ${name}\nDescription: ${arg_DESCRIPTION}\nVersion: ${PROJECT_VERSION}\n")
  foreach(field CFLAGS:Cflags LIBS:Libs LIBS_PRIVATE:Libs.private REQUIRES:Requires)
    string(REGEX MATCH "^(.*):(.*)$" field "${field}")
    if(arg_${CMAKE_MATCH_1})
      list(JOIN arg_${CMAKE_MATCH_1} " " values)
      string(APPEND text "${CMAKE_MATCH_2}: ${values}\n")
    endif()
  endforeach()
  file(CONFIGURE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/pkgconfig/${name}.pc" CONTENT "${text}" @ONLY)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/pkgconfig/${name}.pc" DESTINATION ${dir} COMPONENT dsv4)
endfunction()

# dsv4_install_targets(EXPORT target...): an export set of its own for each optional component, whose users need other
# packages; the package's configuration file includes those that are asked for.
function(dsv4_install_targets export)
  install(
    TARGETS ${ARGN}
    EXPORT ${export}
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT dsv4
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT dsv4
    RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT dsv4)
  install(EXPORT ${export} NAMESPACE dsv4:: DESTINATION ${dsv4_config_dir} COMPONENT dsv4)
endfunction()

function(dsv4_install)
  set(dsv4_config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/dsv4)
  install(DIRECTORY include/dsv4 DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT dsv4)
  install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT dsv4)
  install(DIRECTORY docs DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT dsv4)

  install(DIRECTORY examples DESTINATION ${CMAKE_INSTALL_DATADIR}/dsv4 USE_SOURCE_PERMISSIONS COMPONENT dsv4
          PATTERN __pycache__ EXCLUDE)
  # Where the example of dsv4_validate looks for them.
  install(FILES tests/data/tiny-exact.weights.safetensors DESTINATION ${CMAKE_INSTALL_DATADIR}/dsv4/tests/data
          COMPONENT dsv4)

  # As dsv4::headers asks of its users.
  set(exact -ffp-contract=off -fno-math-errno -fno-trapping-math)
  set(arch "")
  if(DSV4_HOST_ARCH)
    set(arch -march=${DSV4_HOST_ARCH})
  endif()
  dsv4_pkg_config(dsv4-headers DESCRIPTION "Primitives and device code for DeepSeek-V4 inference, header-only C++20"
                  CFLAGS -I\${includedir} ${exact})

  # ---- C++ ----
  dsv4_install_targets(dsv4Targets dsv4_headers dsv4_simt dsv4_kernels_simt)
  dsv4_pkg_config(
    dsv4-kernels-simt
    DESCRIPTION "Kernels for DeepSeek-V4 inference, executed on the CPU; C++ host API"
    REQUIRES dsv4-headers
    CFLAGS -DDSV4_SIMT_EMULATION -fno-strict-aliasing ${arch} -pthread
    LIBS -L\${libdir} -ldsv4_kernels_simt -ldsv4_simt_machine -pthread)
  if(DSV4_CUDA_ENABLED)
    dsv4_install_targets(dsv4_kernels dsv4_kernels)
    # Where the CUDA runtime is, the user's toolkit says.
    dsv4_pkg_config(
      dsv4-kernels
      DESCRIPTION "Kernels for DeepSeek-V4 inference, CUDA; C++ host API. Link the CUDA runtime too (-lcudart_static)"
      REQUIRES dsv4-headers
      LIBS -L\${libdir} -ldsv4_kernels
      LIBS_PRIVATE -lcudart_static -lrt -ldl -pthread)
  endif()
  if(DSV4_BUILD_REFERENCE)
    dsv4_install_targets(dsv4_reference dsv4_reference)
    file(GLOB_RECURSE headers CONFIGURE_DEPENDS RELATIVE "${PROJECT_SOURCE_DIR}" reference/*.hpp)
    foreach(header IN LISTS headers)
      cmake_path(GET header PARENT_PATH folder)
      install(FILES ${header} DESTINATION ${DSV4_REFERENCE_INCLUDEDIR}/${folder} COMPONENT dsv4)
    endforeach()
    cmake_path(GET DSV4_REFERENCE_INCLUDEDIR FILENAME folder)
    dsv4_pkg_config(
      dsv4-reference
      DESCRIPTION "DeepSeek-V4's forward pass on the CPU, exact and deterministic; C++"
      REQUIRES dsv4-headers fmt nlohmann_json
      CFLAGS -I\${includedir}/${folder} ${arch} -pthread
      LIBS -L\${libdir} -ldsv4_reference -pthread)
    install(TARGETS ${dsv4_programs} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT dsv4)
  endif()

  # ---- C ----
  foreach(component dsv4_simt dsv4 dsv4_static)
    if(TARGET dsv4::${component})
      get_target_property(target dsv4::${component} ALIASED_TARGET)
      dsv4_install_targets(dsv4_${component} ${target})
    endif()
  endforeach()
  if(TARGET dsv4::dsv4_simt)
    dsv4_pkg_config(dsv4-simt DESCRIPTION "Kernels for DeepSeek-V4 inference, executed on the CPU; C ABI"
                    CFLAGS -I\${includedir} LIBS -L\${libdir} -ldsv4_simt)
  endif()
  if(TARGET dsv4::dsv4)
    dsv4_pkg_config(dsv4 DESCRIPTION "Kernels for DeepSeek-V4 inference, CUDA; C ABI"
                    CFLAGS -I\${includedir} LIBS -L\${libdir} -ldsv4)
  endif()
  if(EXISTS "${PROJECT_SOURCE_DIR}/python/dsv4.py")
    # Not in Python's own path: it finds the header and the libraries of the prefix that it stands in.
    install(FILES python/dsv4.py DESTINATION ${CMAKE_INSTALL_DATADIR}/dsv4/python COMPONENT dsv4)
  endif()

  configure_package_config_file(cmake/dsv4Config.cmake.in "${CMAKE_CURRENT_BINARY_DIR}/dsv4Config.cmake"
                                INSTALL_DESTINATION ${dsv4_config_dir})
  write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/dsv4ConfigVersion.cmake"
                                   COMPATIBILITY SameMinorVersion)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/dsv4Config.cmake" "${CMAKE_CURRENT_BINARY_DIR}/dsv4ConfigVersion.cmake"
          DESTINATION ${dsv4_config_dir} COMPONENT dsv4)
endfunction()
