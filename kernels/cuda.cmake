# The device "cuda": kernels/cuda through nvcc. ANNEAL_CUDA=auto takes nvcc where there is a good one,
# on insists, off leaves it out. The runtime is linked statically, so that the binary starts where
# there is no driver and says so when asked for a GPU.
set(ANNEAL_CUDA auto CACHE STRING "the device cuda: auto, on or off")
set(ANNEAL_CUDA_ARCHS "80;90a" CACHE STRING "GPUs to compile for; later ones take the newest PTX")
set(AN_CUDA_LEAST 12.8)

set(AN_NVCC_WHY "ANNEAL_CUDA=off")
set(AN_NVCC_FOUND FALSE)
if(ANNEAL_CUDA STREQUAL "auto" AND (ANNEAL_SANITIZE OR ANNEAL_FUZZ))
  set(AN_NVCC_WHY "a sanitizer build")
elseif(NOT ANNEAL_CUDA STREQUAL "off")
  find_program(AN_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
  set(AN_NVCC_WHY "no nvcc in PATH, CUDA_HOME or /usr/local/cuda")
  if(AN_NVCC)
    execute_process(COMMAND ${AN_NVCC} --version OUTPUT_VARIABLE text ERROR_QUIET)
    string(REGEX MATCH "release ([0-9.]+)" _ "${text}")
    set(AN_NVCC_VERSION ${CMAKE_MATCH_1})
    get_filename_component(real ${AN_NVCC} REALPATH)
    get_filename_component(root ${real}/../.. ABSOLUTE)
    find_library(AN_CUDART cudart_static HINTS ${root} PATH_SUFFIXES lib64 lib
                 targets/x86_64-linux/lib NO_DEFAULT_PATH)
    find_path(AN_CUDA_INCLUDE cuda_runtime_api.h HINTS ${root}/include
              ${root}/targets/x86_64-linux/include NO_DEFAULT_PATH)
    if(NOT AN_NVCC_VERSION OR AN_NVCC_VERSION VERSION_LESS AN_CUDA_LEAST)
      set(AN_NVCC_WHY "${AN_NVCC} is of CUDA '${AN_NVCC_VERSION}', ${AN_CUDA_LEAST} is needed")
    elseif(NOT AN_CUDART OR NOT AN_CUDA_INCLUDE)
      set(AN_NVCC_WHY "${root} lacks libcudart_static.a or cuda_runtime_api.h")
    else()
      set(AN_NVCC_FOUND TRUE)
    endif()
  endif()
endif()
if(NOT AN_NVCC_FOUND)
  if(ANNEAL_CUDA STREQUAL "on")
    message(FATAL_ERROR "ANNEAL_CUDA=on, but ${AN_NVCC_WHY}")
  endif()
  message(STATUS "Building without the device cuda: ${AN_NVCC_WHY}")
  return()
endif()
message(STATUS "Building the device cuda: ${AN_NVCC} ${AN_NVCC_VERSION}, sm ${ANNEAL_CUDA_ARCHS}")

set(gencode)
set(newest 80)
foreach(arch ${ANNEAL_CUDA_ARCHS})
  if(arch MATCHES "^[0-9]+$" AND arch GREATER newest)
    set(newest ${arch})
  endif()
  list(APPEND gencode "-gencode=arch=compute_${arch},code=sm_${arch}")
endforeach()
list(APPEND gencode "-gencode=arch=compute_${newest},code=compute_${newest}")
# wgmma and TMA (cuda/hopper.cuh) are of sm_90a and of nothing else.
set(AN_HOPPER_GENCODE "-gencode=arch=compute_90a,code=sm_90a")
set(AN_CUDA_OBJECTS)
set(AN_CUDA_LOGS)
foreach(src ${AN_GPU_KERNELS})
  get_filename_component(name ${src} NAME_WE)
  set(obj ${CMAKE_BINARY_DIR}/cuda/${name}.o)
  # A sampler step is the reference's to the bit: no product is fused with a sum.
  set(fused)
  if(name STREQUAL "step")
    set(fused -fmad=false)
  endif()
  set(archs ${gencode})
  if(name MATCHES "90$")
    set(archs ${AN_HOPPER_GENCODE})
  endif()
  # What ptxas says of registers and spills is kept for the test kernels_ptxas.
  add_custom_command(OUTPUT ${obj} BYPRODUCTS ${obj}.log VERBATIM
    COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/cuda
    COMMAND ${CMAKE_SOURCE_DIR}/kernels/cuda/nvcc.sh ${obj}.log ${AN_NVCC} -std=c++17 -O3
      ${archs} ${fused} -Xptxas=-v --expt-relaxed-constexpr -DAN_GPU_PREFIX=an_cuda_
      -Xcompiler=-fPIE,-fno-exceptions,-fno-threadsafe-statics -I${CMAKE_SOURCE_DIR}/include
      -I${CMAKE_SOURCE_DIR}/kernels -I${CMAKE_SOURCE_DIR}/kernels/cuda
      -MD -MF ${obj}.d -c ${CMAKE_SOURCE_DIR}/${src} -o ${obj}
    DEPENDS ${CMAKE_SOURCE_DIR}/${src} ${CMAKE_SOURCE_DIR}/kernels/cuda/nvcc.sh DEPFILE ${obj}.d
    COMMENT "Compiling ${src} for GPUs")
  list(APPEND AN_CUDA_OBJECTS ${obj})
  list(APPEND AN_CUDA_LOGS ${obj}.log)
endforeach()

list(TRANSFORM AN_GPU_SRCS PREPEND ${CMAKE_SOURCE_DIR}/ OUTPUT_VARIABLE host)
add_library(an_gpu_cuda OBJECT ${host})
target_compile_definitions(an_gpu_cuda PRIVATE AN_GPU_PREFIX=an_cuda_ AN_CUDA=1 _GNU_SOURCE)
target_include_directories(an_gpu_cuda PRIVATE ${CMAKE_SOURCE_DIR}/include ${CMAKE_SOURCE_DIR}/kernels
                           ${CMAKE_SOURCE_DIR}/kernels/cuda)
target_include_directories(an_gpu_cuda SYSTEM PRIVATE ${AN_CUDA_INCLUDE})
target_compile_options(an_gpu_cuda PRIVATE $<TARGET_PROPERTY:an_flags,INTERFACE_COMPILE_OPTIONS>)
target_sources(an_kernels PRIVATE $<TARGET_OBJECTS:an_gpu_cuda> ${AN_CUDA_OBJECTS})
target_compile_definitions(an_kernels PUBLIC AN_CUDA=1)
target_link_libraries(an_kernels PUBLIC ${AN_CUDART} ${CMAKE_DL_LIBS} rt)
