# The emulator's own tests, and the kernels under the sanitizers. Kernels and emulator are compiled
# again by clang (g++ cannot keep ThreadSanitizer's eyes on the kernels and off the emulator); all
# else is what the build has anyway: the sanitizers' objects come first in the link, so that the
# archive's plain ones stay out.
set(AN_SIMT_DIR ${CMAKE_SOURCE_DIR}/tests/simt)
list(TRANSFORM AN_SIMT_SRCS PREPEND ${CMAKE_SOURCE_DIR}/ OUTPUT_VARIABLE emulator)
foreach(name planted runtime)
  set_source_files_properties(${AN_SIMT_DIR}/${name}.cu PROPERTIES LANGUAGE CXX)
  set(test test_kernels_simt_${name})
  add_executable(${test} ${AN_SIMT_DIR}/${name}.cu ${emulator})
  target_compile_options(${test} PRIVATE ${AN_GPU_CXX_FLAGS})
  target_compile_definitions(${test} PRIVATE AN_GPU_PREFIX=an_simt_)
  target_include_directories(${test} PRIVATE ${CMAKE_SOURCE_DIR}/kernels/cuda
                             ${CMAKE_SOURCE_DIR}/kernels/simt/include ${CMAKE_SOURCE_DIR}/include)
  target_compile_options(${test} PRIVATE ${AN_GPU_SANITIZE})
  if(AN_GPU_SANITIZE)
    target_link_options(${test} PRIVATE -fsanitize=address,undefined)
  endif()
  target_link_libraries(${test} PRIVATE Threads::Threads m)
  add_test(NAME kernels_simt_${name} COMMAND ${test})
  set_tests_properties(kernels_simt_${name} PROPERTIES TIMEOUT 300 LABELS "unit;simt")
endforeach()

# A suite that says loudly why it does not run.
function(an_skipped_test name why)
  add_test(NAME ${name} COMMAND ${CMAKE_COMMAND} -E echo "SKIP ${name}: ${why}")
  set_tests_properties(${name} PROPERTIES SKIP_REGULAR_EXPRESSION "SKIP" LABELS "simt")
endfunction()

# Registers and spills, from what nvcc said when it compiled the kernels.
find_package(Python3 COMPONENTS Interpreter)
if(AN_NVCC_FOUND AND Python3_FOUND)
  add_test(NAME kernels_ptxas COMMAND ${Python3_EXECUTABLE} ${AN_SIMT_DIR}/check_ptxas.py
           ${CMAKE_SOURCE_DIR}/kernels/cuda/registers.txt ${AN_CUDA_LOGS})
  add_test(NAME kernels_occupancy COMMAND ${AN_SIMT_DIR}/check_occupancy.sh ${Python3_EXECUTABLE}
           $<TARGET_FILE:anneal> ${CMAKE_BINARY_DIR} ${AN_CUDA_LOGS})
  set_tests_properties(kernels_occupancy PROPERTIES LABELS "simt;slow" TIMEOUT 300)
else()
  an_skipped_test(kernels_occupancy "no GPU kernels in this build: ${AN_NVCC_WHY}")
  an_skipped_test(kernels_ptxas "no GPU kernels in this build: ${AN_NVCC_WHY}")
endif()

# Bank conflicts, from what the kernels' suites launched on the emulated GPU.
if(Python3_FOUND)
  add_test(NAME kernels_bank_conflicts WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}
           COMMAND ${Python3_EXECUTABLE} ${AN_SIMT_DIR}/check_conflicts.py .)
  set_tests_properties(kernels_bank_conflicts PROPERTIES LABELS simt SKIP_RETURN_CODE 77
    DEPENDS "kernels_attention_simt;kernels_conv_simt;kernels_gemm_simt;kernels_gemm_simt90;kernels_conv_simt90;kernels_paged_simt;kernels_quant_simt")
endif()

# Compiling the kernels twice more takes minutes: ./test asks for it.
option(ANNEAL_SIMT_SANITIZE "the GPU's kernels under AddressSanitizer and ThreadSanitizer" OFF)
if(NOT ANNEAL_SIMT_SANITIZE OR ANNEAL_SANITIZE OR ANNEAL_FUZZ)
  return()
endif()
find_program(AN_CLANGXX NAMES clang++ clang++-14)
set(AN_SIMT_SUITES attention conv gemm hopper lm norm ops paged quant sample step)

set(AN_SIMT_asan_EMULATOR -fsanitize=address,undefined -fno-sanitize-recover=all)
set(AN_SIMT_asan_KERNELS ${AN_SIMT_asan_EMULATOR})
set(AN_SIMT_asan_LINK ${AN_SIMT_asan_EMULATOR})
set(AN_SIMT_tsan_EMULATOR -DSIMT_TSAN=1)
set(AN_SIMT_tsan_KERNELS -fsanitize=thread)
set(AN_SIMT_tsan_LINK -fsanitize=thread)
set(cudart)
if(AN_NVCC_FOUND)
  set(cudart ${AN_CUDART} -ldl -lrt)
endif()
set(AN_SIMT_ENV "TSAN_OPTIONS=halt_on_error=1" "ASAN_OPTIONS=detect_leaks=0")

# One object of a variant: an_simt_object(RESULT variant source flags...)
function(an_simt_object result variant src)
  file(RELATIVE_PATH rel ${CMAKE_SOURCE_DIR} ${src})
  set(obj ${CMAKE_CURRENT_BINARY_DIR}/simt-${variant}/${rel}.o)
  get_filename_component(dir ${obj} DIRECTORY)
  file(MAKE_DIRECTORY ${dir})
  add_custom_command(OUTPUT ${obj}
    COMMAND ${CMAKE_CXX_COMPILER_LAUNCHER} ${AN_CLANGXX} -std=c++17 -O1 -g1 ${AN_GPU_CXX_FLAGS}
      -DAN_GPU_PREFIX=an_simt_ -D_GNU_SOURCE -I${CMAKE_SOURCE_DIR}/include
      -I${CMAKE_SOURCE_DIR}/kernels -I${CMAKE_SOURCE_DIR}/kernels/cuda
      -I${CMAKE_SOURCE_DIR}/kernels/simt/include ${ARGN} -MD -MF ${obj}.d -x c++ -c ${src} -o ${obj}
    DEPENDS ${src} DEPFILE ${obj}.d VERBATIM
    COMMENT "Building ${rel} for ${variant}")
  set(${result} ${obj} PARENT_SCOPE)
endfunction()

foreach(variant asan tsan)
  if(NOT AN_CLANGXX)
    an_skipped_test(kernels_simt_${variant} "no clang++: the kernels' sanitizers need it")
    continue()
  endif()
  set(emulator)
  foreach(src ${AN_SIMT_SRCS})
    an_simt_object(obj ${variant} ${CMAKE_SOURCE_DIR}/${src} -O2 ${AN_SIMT_${variant}_EMULATOR})
    list(APPEND emulator ${obj})
  endforeach()
  set(kernels)
  foreach(src ${AN_GPU_KERNELS})
    an_simt_object(obj ${variant} ${CMAKE_SOURCE_DIR}/${src} ${AN_SIMT_${variant}_KERNELS})
    list(APPEND kernels ${obj})
  endforeach()
  an_simt_object(planted ${variant} ${AN_SIMT_DIR}/planted.cu ${AN_SIMT_${variant}_KERNELS}
                 $<$<STREQUAL:${variant},tsan>:-DSIMT_TSAN=1>)

  set(exe ${CMAKE_BINARY_DIR}/test_kernels_simt_planted_${variant})
  add_custom_command(OUTPUT ${exe} DEPENDS ${planted} ${emulator} VERBATIM
    COMMAND ${AN_CLANGXX} ${AN_SIMT_${variant}_LINK} ${planted} ${emulator} -lm -pthread -o ${exe})
  set(exes ${exe})
  add_test(NAME kernels_simt_planted_${variant} COMMAND ${exe})
  set_tests_properties(kernels_simt_planted_${variant} PROPERTIES TIMEOUT 300 LABELS "unit;simt")

  foreach(suite ${AN_SIMT_SUITES})
    set(exe ${CMAKE_BINARY_DIR}/test_kernels_${suite}_${variant})
    add_custom_command(OUTPUT ${exe} VERBATIM COMMAND_EXPAND_LISTS
      DEPENDS test_kernels_${suite} an_kernels an_base ${kernels} ${emulator}
      COMMAND ${AN_CLANGXX} ${AN_SIMT_${variant}_LINK} $<TARGET_OBJECTS:test_kernels_${suite}>
        ${kernels} ${emulator} $<TARGET_FILE:an_kernels> $<TARGET_FILE:an_base>
        ${JANSSON_LINK_LIBRARIES} ${DNNL_LIBRARY} ${cudart} -lm -pthread -o ${exe})
    list(APPEND exes ${exe})
    add_test(NAME kernels_${suite}_simt_${variant} COMMAND ${exe})
    set_tests_properties(kernels_${suite}_simt_${variant} PROPERTIES SKIP_RETURN_CODE 77
      TIMEOUT 900 LABELS "simt;slow" ENVIRONMENT "AN_TEST_DEVICE=simt;${AN_SIMT_ENV}")
  endforeach()
  add_custom_target(simt_${variant} ALL DEPENDS ${exes})
endforeach()
