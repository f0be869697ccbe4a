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
add_test(NAME gpu_wrappers COMMAND gpu_wrappers
         --vectors ${CMAKE_CURRENT_SOURCE_DIR}/golden/gpu_wrappers.txt)
set_tests_properties(gpu_wrappers PROPERTIES TIMEOUT 120 LABELS unit)
