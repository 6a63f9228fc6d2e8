# dsv4_add_install_tests(PREFIX LABEL COMPONENTS component... [MODULES module=program...]): tests PREFIX_*, which install
# this build tree (PREFIX_tree), and use it from elsewhere by find_package (PREFIX_find_package) and by pkg-config
# (PREFIX_pkg_config); with the C ABI also the examples that call it, as they are installed (PREFIX_examples).
# dsv4_add_subproject_test(NAME): a project with this repository in a subfolder.
# The projects and programs: tests/install.
include_guard(GLOBAL)

function(dsv4_add_install_tests prefix label)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "" "COMPONENTS;MODULES")
  set(dir ${PROJECT_SOURCE_DIR}/tests/install)
  set(work ${CMAKE_CURRENT_BINARY_DIR}/${prefix})
  string(REPLACE ";" ":" path "${CMAKE_PREFIX_PATH}")
  set(common -D PREFIX=${work}/prefix -D CONFIG=$<CONFIG> -D GENERATOR=${CMAKE_GENERATOR} -D
             CXX_COMPILER=${CMAKE_CXX_COMPILER} -D C_COMPILER=${CMAKE_C_COMPILER} -D PREFIX_PATH=${path})
  add_test(NAME ${prefix}_tree COMMAND ${CMAKE_COMMAND} ${common} -D BUILD_DIR=${PROJECT_BINARY_DIR} -D
                                       SOURCE_DIR=${PROJECT_SOURCE_DIR} -P ${dir}/install.cmake)
  set_tests_properties(${prefix}_tree PROPERTIES FIXTURES_SETUP ${prefix} LABELS ${label} TIMEOUT 300)

  # C and C++ apart: the package must serve a project that has one of them alone.
  set(c_components ${arg_COMPONENTS})
  list(FILTER c_components INCLUDE REGEX "^dsv4")
  list(FILTER arg_COMPONENTS EXCLUDE REGEX "^dsv4")
  foreach(consumer IN ITEMS c cxx)
    set(components ${arg_COMPONENTS})
    if(consumer STREQUAL "c")
      set(components ${c_components})
    endif()
    if(components)
      list(JOIN components "," components)
      set(name ${prefix}_find_package_${consumer})
      add_test(NAME ${name} COMMAND ${CMAKE_COMMAND} ${common} -D WORK_DIR=${work}/${consumer} -D
                                    CONSUMER_DIR=${dir}/${consumer} -D COMPONENTS=${components} -P ${dir}/consume.cmake)
      set_tests_properties(${name} PROPERTIES FIXTURES_REQUIRED ${prefix} LABELS ${label} TIMEOUT 600)
    endif()
  endforeach()

  if("dsv4_simt" IN_LIST c_components)
    # The others take minutes to compile; tools/package_check.sh has all of them.
    set(targets example_link_c_api)
    if("dsv4" IN_LIST c_components)
      string(APPEND targets ,example_link_c_api_cuda)
    endif()
    add_test(
      NAME ${prefix}_examples
      COMMAND
        ${CMAKE_COMMAND} ${common} -D WORK_DIR=${work}/examples -D
        CONSUMER_DIR=${work}/prefix/${CMAKE_INSTALL_DATADIR}/dsv4/examples -D TARGETS=${targets} -D
        "TESTS=^example_(link_c_api|link_c_api_cuda|rust|python|torch_dlpack)$" -P ${dir}/consume.cmake)
    set_tests_properties(${prefix}_examples PROPERTIES FIXTURES_REQUIRED ${prefix} LABELS ${label} TIMEOUT 300)
  endif()

  if(arg_MODULES)
    find_program(DSV4_PKG_CONFIG pkg-config DOC "For tests of the pkg-config files")
    list(JOIN arg_MODULES "," modules)
    add_test(
      NAME ${prefix}_pkg_config
      COMMAND ${CMAKE_COMMAND} ${common} -D WORK_DIR=${work}/pkg_config -D SOURCE_DIR=${dir} -D MODULES=${modules} -D
              LIBDIR=${CMAKE_INSTALL_LIBDIR} -D PKG_CONFIG=${DSV4_PKG_CONFIG} -P ${dir}/pkg_config.cmake)
    set_tests_properties(${prefix}_pkg_config PROPERTIES FIXTURES_REQUIRED ${prefix} LABELS ${label} TIMEOUT 300
                                                         SKIP_REGULAR_EXPRESSION "pkg_config: SKIPPED")
  endif()
endfunction()

function(dsv4_add_subproject_test name)
  add_test(
    NAME ${name}
    COMMAND ${CMAKE_COMMAND} -D SOURCE_DIR=${PROJECT_SOURCE_DIR} -D WORK_DIR=${CMAKE_CURRENT_BINARY_DIR}/${name} -D
            GENERATOR=${CMAKE_GENERATOR} -D CXX_COMPILER=${CMAKE_CXX_COMPILER} -P
            ${PROJECT_SOURCE_DIR}/tests/install/subproject.cmake)
  set_tests_properties(${name} PROPERTIES LABELS house TIMEOUT 300)
endfunction()
