# The kernels room: dispatch and the plain-C reference, and the CPU filling. Files whose name ends
# in _avx2, _avx512, _vnni, _bf16 or _amx are compiled for that instruction set and only entered after cpuid said
# so; everything else is x86-64-v2, so that the binary starts anywhere.
file(GLOB AN_KERNEL_SRCS CONFIGURE_DEPENDS kernels/*.c kernels/ref/*.c kernels/cpu/*.c
     kernels/bench/*.c)
set(AN_KERNEL_SRCS ${AN_KERNEL_SRCS})
list(FILTER AN_KERNEL_SRCS EXCLUDE REGEX "/onednn\\.c$")
add_library(an_kernels STATIC ${AN_KERNEL_SRCS} $<TARGET_OBJECTS:an_gpu_simt>)
target_include_directories(an_kernels PRIVATE ${CMAKE_SOURCE_DIR}/kernels)
target_link_libraries(an_kernels PUBLIC an_flags an_base)
# Plain loops are left to the compiler's vectoriser, which gcc 12 fully runs at -O3 only.
# (Sanitizers compile such loops for minutes; they look for faults, not for speed.)
if(NOT ANNEAL_SANITIZE)
  target_compile_options(an_kernels PRIVATE $<$<NOT:$<CONFIG:Debug>>:-O3>)
endif()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  target_compile_options(an_kernels PRIVATE -march=x86-64-v2)
endif()
if(ANNEAL_SANITIZE)
  # gcc takes minutes for these at -O2, and for the checks of undefined behaviour in what is unrolled
  # by macros. Addresses are checked.
  set(AN_WIDE -O1 -fno-sanitize=undefined)
endif()
foreach(src ${AN_KERNEL_SRCS})
  if(src MATCHES "quant_avx2\\.c$")
    set_source_files_properties(${src} PROPERTIES COMPILE_OPTIONS "${AN_WIDE};-mavx2;-mfma;-mf16c")
  elseif(src MATCHES "_avx2\\.c$")
    set_source_files_properties(${src} PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
  elseif(src MATCHES "_avx512\\.c$")
    set_source_files_properties(${src} PROPERTIES COMPILE_OPTIONS
      "${AN_WIDE};-mavx2;-mfma;-mf16c;-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mprefer-vector-width=512")
  elseif(src MATCHES "_vnni\\.c$")
    set_source_files_properties(${src} PROPERTIES COMPILE_OPTIONS
      "${AN_WIDE};-mavx2;-mfma;-mf16c;-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mavx512vnni;-mprefer-vector-width=512")
  elseif(src MATCHES "_bf16\\.c$")
    set_source_files_properties(${src} PROPERTIES COMPILE_OPTIONS
      "${AN_WIDE};-mavx2;-mfma;-mf16c;-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mavx512bf16;-mprefer-vector-width=512")
  elseif(src MATCHES "_amx\\.c$")
    set_source_files_properties(${src} PROPERTIES COMPILE_OPTIONS
      "${AN_WIDE};-mavx2;-mfma;-mf16c;-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mavx512bf16;-mavx512vnni;-mamx-tile;-mamx-bf16;-mamx-int8;-mprefer-vector-width=512")
  endif()
endforeach()
if(ANNEAL_ONEDNN AND EXISTS ${CMAKE_SOURCE_DIR}/kernels/cpu/onednn.c)
  find_library(DNNL_LIBRARY dnnl)
  find_path(DNNL_INCLUDE oneapi/dnnl/dnnl.h)
  if(DNNL_LIBRARY AND DNNL_INCLUDE)
    target_sources(an_kernels PRIVATE ${CMAKE_SOURCE_DIR}/kernels/cpu/onednn.c)
    target_include_directories(an_kernels SYSTEM PRIVATE ${DNNL_INCLUDE})
    target_compile_definitions(an_kernels PUBLIC AN_ONEDNN=1) # tests ask too
    target_link_libraries(an_kernels PUBLIC ${DNNL_LIBRARY})
  else()
    message(WARNING "oneDNN not found: building without it")
  endif()
endif()

# The GPU's kernels and their host side, kernels/cuda, on the CPU: device "simt". (The same files
# become the device "cuda" through nvcc.)
file(GLOB AN_GPU_SRCS RELATIVE ${CMAKE_SOURCE_DIR} CONFIGURE_DEPENDS
     kernels/cuda/*.c)
file(GLOB AN_GPU_KERNELS RELATIVE ${CMAKE_SOURCE_DIR} CONFIGURE_DEPENDS
     kernels/cuda/*.cu)
file(GLOB AN_SIMT_SRCS RELATIVE ${CMAKE_SOURCE_DIR} CONFIGURE_DEPENDS
     kernels/simt/*.cc)
set_source_files_properties(${AN_GPU_KERNELS} PROPERTIES LANGUAGE CXX)
add_library(an_gpu_simt OBJECT ${AN_GPU_SRCS} ${AN_GPU_KERNELS} ${AN_SIMT_SRCS})
target_compile_definitions(an_gpu_simt PRIVATE AN_GPU_PREFIX=an_simt_ _GNU_SOURCE)
target_include_directories(an_gpu_simt PRIVATE ${CMAKE_SOURCE_DIR}/include ${CMAKE_SOURCE_DIR}/kernels
                           ${CMAKE_SOURCE_DIR}/kernels/cuda ${CMAKE_SOURCE_DIR}/kernels/simt/include)
# No C++ at run time. gcc 12 is mistaken about slices of fragments in registers (-Warray-bounds), and
# about what is read under the very condition that it was written under (-Wmaybe-uninitialized).
set(AN_GPU_CXX_FLAGS -Wall -Wextra ${AN_WERROR} -Wno-unknown-pragmas -Wno-array-bounds
    -Wno-unknown-warning-option -Wno-maybe-uninitialized -fno-exceptions -fno-rtti
    -fno-threadsafe-statics -fno-math-errno -ffp-contract=off -fno-strict-aliasing)
target_compile_options(an_gpu_simt PRIVATE
  "$<$<COMPILE_LANGUAGE:C>:$<TARGET_PROPERTY:an_flags,INTERFACE_COMPILE_OPTIONS>>"
  "$<$<COMPILE_LANGUAGE:CXX>:${AN_GPU_CXX_FLAGS}>")
set(AN_GPU_SANITIZE)
if(ANNEAL_SANITIZE STREQUAL "address")
  # Fibers are told to AddressSanitizer; ThreadSanitizer sees kernels in tests/simt only. gcc 12 takes
  # a thread-local variable's place for a null pointer.
  set(AN_GPU_SANITIZE -fsanitize=address,undefined -fno-sanitize=null -fno-sanitize-recover=all
      -fno-omit-frame-pointer -g)
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang") # this check wants C++'s library at run time
    list(APPEND AN_GPU_SANITIZE -fno-sanitize=function)
  endif()
endif()
target_compile_options(an_gpu_simt PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${AN_GPU_SANITIZE}>")
if(ANNEAL_FUZZ) # no fuzzer computes anything: half of the build's time saved
  target_compile_options(an_kernels PRIVATE -O0 -fno-sanitize=all)
  target_compile_options(an_gpu_simt PRIVATE -O0 -fno-sanitize=all)
endif()
include(kernels/cuda.cmake)
