# dsv4_add_install_test(NAME COMPONENTS...): a test that installs this build tree and uses it from a project without CUDA.
include_guard(GLOBAL)

function(dsv4_add_install_test name)
  list(JOIN ARGN "," components)
  set(dir ${PROJECT_SOURCE_DIR}/tests/install)
  add_test(
    NAME ${name}
    COMMAND
      ${CMAKE_COMMAND} -D BUILD_DIR=${PROJECT_BINARY_DIR} -D WORK_DIR=${CMAKE_CURRENT_BINARY_DIR}/${name} -D
      CONSUMER_DIR=${dir}/consumer -D GENERATOR=${CMAKE_GENERATOR} -D CXX_COMPILER=${CMAKE_CXX_COMPILER} -D
      CONFIG=$<CONFIG> "-DPREFIX_PATH=${CMAKE_PREFIX_PATH}" "-DCOMPONENTS=${components}" -P ${dir}/run.cmake)
endfunction()
