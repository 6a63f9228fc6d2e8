# cpack: an archive (TGZ) and a Debian package (DEB) of all that `cmake --install` copies. Preset: package.
# One package holds libraries, headers and programs: for a C++ library whose users compile against it there is nothing to
# gain from Debian's splitting. With the CUDA parts it has another name, and takes the place of the one without.
include_guard(GLOBAL)

set(CPACK_GENERATOR TGZ DEB)
set(CPACK_PACKAGE_VENDOR dsv4)
set(CPACK_PACKAGE_CONTACT "The dsv4 developers <dsv4@example.org>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "kernels and a reference forward pass for DeepSeek-V4 inference")
set(dsv4_package dsv4-dev)
if(DSV4_CUDA_ENABLED)
  set(dsv4_package dsv4-cuda-dev)
endif()
set(dsv4_package_cpu "any processor of the architecture")
if(DSV4_HOST_ARCH)
  set(dsv4_package_cpu "-march=${DSV4_HOST_ARCH}")
endif()
set(CPACK_PACKAGE_DESCRIPTION
    "Headers, libraries and programs for DeepSeek-V4 inference: the kernels with a\nC and a C++ host API, for \
CUDA where they were built for it, and\nexecuted on the CPU; the header-only primitives; a reference forward pass \
and\nits validator. CPU code is compiled for ${dsv4_package_cpu}.")
set(CPACK_RESOURCE_FILE_LICENSE "${PROJECT_SOURCE_DIR}/LICENSE")
set(CPACK_PACKAGE_FILE_NAME ${dsv4_package}-${PROJECT_VERSION}-${CMAKE_SYSTEM_NAME}-${CMAKE_SYSTEM_PROCESSOR})
set(CPACK_STRIP_FILES ON)
# Of the fetched dependencies (DSV4_FETCH_DEPENDENCIES) those that dsv4::reference names are installed too.
set(CPACK_COMPONENTS_ALL dsv4 Unspecified)
set(CPACK_COMPONENTS_GROUPING ALL_COMPONENTS_IN_ONE)
set(CPACK_ARCHIVE_COMPONENT_INSTALL OFF)

# ---- Debian ----------------------------------------------------------------------------------------------
set(CPACK_DEBIAN_PACKAGE_NAME ${dsv4_package})
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)
set(CPACK_DEBIAN_PACKAGE_SECTION libdevel)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
# The headers of dsv4::reference include those of the last two.
set(CPACK_DEBIAN_PACKAGE_DEPENDS "")
if(DSV4_BUILD_REFERENCE)
  set(CPACK_DEBIAN_PACKAGE_DEPENDS "libfmt-dev, nlohmann-json3-dev")
endif()
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "g++, cmake, pkg-config")
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "python3-numpy")
find_program(DSV4_DPKG_SHLIBDEPS dpkg-shlibdeps DOC "Finds the packages that programs need")
if(DSV4_DPKG_SHLIBDEPS)
  set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
else()
  string(PREPEND CPACK_DEBIAN_PACKAGE_DEPENDS "libc6, libstdc++6, ")
endif()
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON) # and have ldconfig run
if(DSV4_CUDA_ENABLED)
  set(CPACK_DEBIAN_PACKAGE_PROVIDES dsv4-dev)
  set(CPACK_DEBIAN_PACKAGE_CONFLICTS dsv4-dev)
  set(CPACK_DEBIAN_PACKAGE_REPLACES dsv4-dev)
endif()
# What Debian's lintian would otherwise remark.
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME copyright COMPONENT dsv4)
file(
  CONFIGURE
  OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/lintian-overrides"
  CONTENT
    "# Not part of Debian: the history is the repository's.\n@dsv4_package@: no-changelog *\n\
# Programs explain themselves: --help.\n@dsv4_package@: no-manual-page *\n\
# Results depend on these flags, to the bit.\n@dsv4_package@: pkg-config-bad-directive *\n\
# A prefix holds one architecture: /usr/lib, for other distributions' sake.\n\
@dsv4_package@: pkg-config-unavailable-for-cross-compilation *\n"
  @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/lintian-overrides" DESTINATION ${CMAKE_INSTALL_DATADIR}/lintian/overrides
        RENAME ${dsv4_package} COMPONENT dsv4)
include(CPack)
