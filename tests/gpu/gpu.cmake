# The wrappers of kernels/cuda/gpu.cuh against a model, and the rehearsal of what a GPU machine runs.
set(AN_WRAPPER_DEFS AN_GPU_PREFIX=an_simt_ _GNU_SOURCE)
add_library(gpu_wrappers_simt OBJECT ${CMAKE_CURRENT_SOURCE_DIR}/gpu/wrappers.cu)
set_source_files_properties(${CMAKE_CURRENT_SOURCE_DIR}/gpu/wrappers.cu PROPERTIES LANGUAGE CXX)
target_compile_definitions(gpu_wrappers_simt PRIVATE ${AN_WRAPPER_DEFS})
target_compile_options(gpu_wrappers_simt PRIVATE $<TARGET_PROPERTY:an_gpu_simt,COMPILE_OPTIONS>)
target_include_directories(gpu_wrappers_simt PRIVATE ${CMAKE_SOURCE_DIR}/kernels
                           $<TARGET_PROPERTY:an_gpu_simt,INCLUDE_DIRECTORIES>)
add_executable(gpu_wrappers gpu/wrappers.c gpu/wrappers_model.c $<TARGET_OBJECTS:gpu_wrappers_simt>)
target_link_libraries(gpu_wrappers PRIVATE an_kernels)
set_target_properties(gpu_wrappers PROPERTIES LINKER_LANGUAGE C)
if(AN_NVCC_FOUND) # the same on a GPU, in the same binary
  set(obj ${CMAKE_BINARY_DIR}/cuda/wrappers.o)
  add_custom_command(OUTPUT ${obj} VERBATIM
    COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/cuda
    COMMAND ${AN_NVCC} -std=c++17 -O3 ${gencode} -DAN_GPU_PREFIX=an_cuda_ -Xcompiler=-fPIE,-fno-exceptions,-fno-threadsafe-statics
      -I${CMAKE_SOURCE_DIR}/include -I${CMAKE_SOURCE_DIR}/kernels -I${CMAKE_SOURCE_DIR}/kernels/cuda
      -MD -MF ${obj}.d -c ${CMAKE_CURRENT_SOURCE_DIR}/gpu/wrappers.cu -o ${obj}
    DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/gpu/wrappers.cu DEPFILE ${obj}.d
    COMMENT "Compiling tests/gpu/wrappers.cu for GPUs")
  target_sources(gpu_wrappers PRIVATE ${obj})
endif()
add_test(NAME gpu_wrappers COMMAND gpu_wrappers
         --vectors ${CMAKE_CURRENT_SOURCE_DIR}/golden/gpu_wrappers.txt)
set_tests_properties(gpu_wrappers PROPERTIES TIMEOUT 120 LABELS unit)

# check.sh as it would run beside a GPU, the smallest of every stage, on what this build has.
find_package(Python3 COMPONENTS Interpreter)
if(Python3_FOUND AND TARGET anneal AND NOT ANNEAL_SANITIZE AND NOT ANNEAL_FUZZ)
  add_test(NAME gpu_check_rehearsal COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/gpu/check.sh
           ${CMAKE_BINARY_DIR}/gpu-check --device simt --quick --build ${CMAKE_BINARY_DIR})
  set_tests_properties(gpu_check_rehearsal PROPERTIES TIMEOUT 600 LABELS "slow" RUN_SERIAL TRUE)
endif()
