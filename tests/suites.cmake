# Suites that are not one C file: the include direction, and Python against the real binary.
add_test(NAME include_direction COMMAND ${CMAKE_SOURCE_DIR}/tests/check_includes.sh)
find_package(Python3 COMPONENTS Interpreter)
if(Python3_FOUND AND TARGET anneal)
  function(an_python_suite name file)
    add_test(NAME ${name} COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tests/${file})
    set_tests_properties(${name} PROPERTIES
      ENVIRONMENT "ANNEAL_BINARY=$<TARGET_FILE:anneal>;PYTHONDONTWRITEBYTECODE=1"
      RUN_SERIAL TRUE ${ARGN})
    if(ANNEAL_SANITIZE) # everything is slower: smaller numbers
      set_property(TEST ${name} APPEND PROPERTY ENVIRONMENT "AN_SLOW=1")
    endif()
  endfunction()
  an_python_suite(http_api http/test_api.py TIMEOUT 900 LABELS "http;threads")
  an_python_suite(http_golden http/test_golden.py TIMEOUT 900 LABELS "http;golden")
  an_python_suite(http_invariance http/test_invariance.py TIMEOUT 1200 LABELS "http;slow")
  an_python_suite(load load/test_load.py TIMEOUT 1200 LABELS "slow;threads")
else()
  message(WARNING "no python3: the HTTP and load suites will not run")
endif()
