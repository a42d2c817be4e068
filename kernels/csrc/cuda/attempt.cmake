# Configures and builds the CUDA library. Where that fails, says so and succeeds all the same, unless it is required.
file(REMOVE ${LIBRARY})  # never an older one
string(REPLACE "," ";" architectures "${ARCHITECTURES}")
execute_process(
  COMMAND
    ${CMAKE_COMMAND} -S ${SOURCE} -B ${BUILD} -G ${GENERATOR} -DCMAKE_MAKE_PROGRAM=${MAKE_PROGRAM} -DCMAKE_BUILD_TYPE=Release
    -DCMAKE_CUDA_COMPILER=${COMPILER} "-DCMAKE_CUDA_ARCHITECTURES=${architectures}"
  RESULT_VARIABLE failed)
if(NOT failed)
  execute_process(COMMAND ${CMAKE_COMMAND} --build ${BUILD} RESULT_VARIABLE failed)
endif()
if(failed OR NOT EXISTS ${LIBRARY})
  if(REQUIRED STREQUAL "ON")
    message(FATAL_ERROR "omniq: the CUDA library does not build (see above), and OMNIQ_CUDA is ON")
  endif()
  message(WARNING "omniq: the CUDA library does not build (see above) and is left out; the rest is not affected")
endif()
file(TOUCH ${STAMP})
