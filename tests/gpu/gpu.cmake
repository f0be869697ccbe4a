# The wrappers of kernels/cuda/gpu.cuh against a model, and the rehearsal of what a GPU machine runs.
set(AN_WRAPPER_DEFS AN_GPU_PREFIX=an_simt_ _GNU_SOURCE)
set(sources wrappers wrappers_hopper)
list(TRANSFORM sources PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/gpu/ OUTPUT_VARIABLE kernels)
list(TRANSFORM kernels APPEND .cu)
add_library(gpu_wrappers_simt OBJECT ${kernels})
set_source_files_properties(${kernels} PROPERTIES LANGUAGE CXX)
target_compile_definitions(gpu_wrappers_simt PRIVATE ${AN_WRAPPER_DEFS})
target_compile_options(gpu_wrappers_simt PRIVATE $<TARGET_PROPERTY:an_gpu_simt,COMPILE_OPTIONS>)
target_include_directories(gpu_wrappers_simt PRIVATE ${CMAKE_SOURCE_DIR}/kernels
                           $<TARGET_PROPERTY:an_gpu_simt,INCLUDE_DIRECTORIES>)
add_executable(gpu_wrappers gpu/wrappers.c gpu/wrappers_model.c gpu/wrappers_hopper_model.c
               $<TARGET_OBJECTS:gpu_wrappers_simt>)
target_link_libraries(gpu_wrappers PRIVATE an_kernels)
set_target_properties(gpu_wrappers PROPERTIES LINKER_LANGUAGE C)
if(AN_NVCC_FOUND) # the same on a GPU, in the same binary
  foreach(name ${sources})
    set(obj ${CMAKE_BINARY_DIR}/cuda/${name}.o)
    set(archs ${gencode})
    if(name MATCHES hopper)
      set(archs ${AN_HOPPER_GENCODE})
    endif()
    add_custom_command(OUTPUT ${obj} VERBATIM
      COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/cuda
      COMMAND ${AN_NVCC} -std=c++17 -O3 ${archs} -DAN_GPU_PREFIX=an_cuda_ -Xcompiler=-fPIE,-fno-exceptions,-fno-threadsafe-statics
        -I${CMAKE_SOURCE_DIR}/include -I${CMAKE_SOURCE_DIR}/kernels -I${CMAKE_SOURCE_DIR}/kernels/cuda
        -MD -MF ${obj}.d -c ${CMAKE_CURRENT_SOURCE_DIR}/gpu/${name}.cu -o ${obj}
      DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/gpu/${name}.cu DEPFILE ${obj}.d
      COMMENT "Compiling tests/gpu/${name}.cu for GPUs")
    target_sources(gpu_wrappers PRIVATE ${obj})
  endforeach()
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
