# Configures, builds and runs the project CONSUMER_DIR against the dsv4 that is installed in PREFIX; one program for each
# of COMPONENTS (separated by commas). With TARGETS (likewise) and TESTS (a regular expression) these alone.
function(run what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "consume: ${what} failed (${result})")
  endif()
endfunction()

file(REMOVE_RECURSE "${WORK_DIR}")
set(ENV{CMAKE_PREFIX_PATH} "${PREFIX}:${PREFIX_PATH}") # separated by colons
set(c "")
if(C_COMPILER) # else CMake looks for one
  set(c "-DCMAKE_C_COMPILER=${C_COMPILER}")
endif()
run("configure"
    ${CMAKE_COMMAND} -S "${CONSUMER_DIR}" -B "${WORK_DIR}" -G "${GENERATOR}" ${c}
    "-DCMAKE_CXX_COMPILER=${CXX_COMPILER}" "-DDSV4_COMPONENTS=${COMPONENTS}" "-DCMAKE_BUILD_TYPE=${CONFIG}")
# The package must be the one just installed, not another one of this machine.
file(STRINGS "${WORK_DIR}/CMakeCache.txt" dir REGEX "^dsv4_DIR:")
string(FIND "${dir}" "${PREFIX}/" at)
if(at EQUAL -1)
  message(FATAL_ERROR "consume: found another dsv4: ${dir}")
endif()
set(targets "")
if(TARGETS)
  string(REPLACE "," ";" targets "--target,${TARGETS}")
endif()
set(tests "")
if(TESTS)
  set(tests -R "${TESTS}")
endif()
run("build" ${CMAKE_COMMAND} --build "${WORK_DIR}" --config "${CONFIG}" ${targets})
run("test" ${CMAKE_CTEST_COMMAND} --test-dir "${WORK_DIR}" -C "${CONFIG}" --output-on-failure --no-tests=error ${tests})
