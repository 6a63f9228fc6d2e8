# Installs the build tree BUILD_DIR under WORK_DIR, then configures, builds and runs CONSUMER_DIR against it, with
# one program for each of COMPONENTS.
function(run what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "install_consumer: ${what} failed (${result})")
  endif()
endfunction()

file(REMOVE_RECURSE "${WORK_DIR}")
run("install" ${CMAKE_COMMAND} --install "${BUILD_DIR}" --prefix "${WORK_DIR}/prefix" --config "${CONFIG}")
set(build "${WORK_DIR}/build")
run("configure"
    ${CMAKE_COMMAND} -S "${CONSUMER_DIR}" -B "${build}" -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${CXX_COMPILER}"
    "-DDSV4_COMPONENTS=${COMPONENTS}" "-DCMAKE_BUILD_TYPE=${CONFIG}" "-DCMAKE_PREFIX_PATH=${WORK_DIR}/prefix;${PREFIX_PATH}")
# The package must be the one just installed, not another one of this machine.
file(STRINGS "${build}/CMakeCache.txt" dir REGEX "^dsv4_DIR:")
string(FIND "${dir}" "${WORK_DIR}/prefix" at)
if(at EQUAL -1)
  message(FATAL_ERROR "install_consumer: found another dsv4: ${dir}")
endif()
run("build" ${CMAKE_COMMAND} --build "${build}" --config "${CONFIG}")
run("test" ${CMAKE_CTEST_COMMAND} --test-dir "${build}" -C "${CONFIG}" --output-on-failure)
