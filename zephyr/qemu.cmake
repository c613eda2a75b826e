# Copyright (c) 2026 The ivshmem-flat authors
# SPDX-License-Identifier: Apache-2.0
#
# What QEMU is told of ivshmem-flat, from the devicetree: so the device is where
# the driver expects it, and as large.

zephyr_get(IVSHMEM_FLAT_SOCKET)
set_ifndef(IVSHMEM_FLAT_SOCKET /tmp/ivshmem_socket)
list(APPEND QEMU_EXTRA_FLAGS -chardev socket,id=ivshmem,path=${IVSHMEM_FLAT_SOCKET})

dt_nodelabel(ivshmem_node NODELABEL ivshmem0 REQUIRED)
dt_reg_addr(ivshmem_registers PATH ${ivshmem_node} NAME registers)
dt_reg_addr(ivshmem_shmem PATH ${ivshmem_node} NAME shmem)
dt_reg_size(ivshmem_size PATH ${ivshmem_node} NAME shmem)
dt_prop(ivshmem_revision PATH ${ivshmem_node} PROPERTY "qemu,revision")
dt_prop(ivshmem_peer_registers PATH ${ivshmem_node} PROPERTY "qemu,peer-registers")
dt_prop(ivshmem_changes_vector PATH ${ivshmem_node} PROPERTY "qemu,changes-vector")
dt_prop(ivshmem_interrupts PATH ${ivshmem_node} PROPERTY "interrupts")
dt_prop(ivshmem_names PATH ${ivshmem_node} PROPERTY "interrupt-names")
# The lists end with an empty item.
list(FILTER ivshmem_interrupts INCLUDE REGEX .)
list(FILTER ivshmem_names INCLUDE REGEX .)
list(LENGTH ivshmem_interrupts ivshmem_cells)
list(LENGTH ivshmem_names ivshmem_vectors)

set(ivshmem_device ivshmem-flat,chardev=ivshmem,shmem-size=${ivshmem_size})
string(APPEND ivshmem_device ",revision=${ivshmem_revision}")
if(ivshmem_vectors)
  string(APPEND ivshmem_device ",vectors=${ivshmem_vectors}")
endif()
if(ivshmem_peer_registers)
  list(APPEND QEMU_EXTRA_FLAGS -global ivshmem-flat.peer-registers=on)
endif()
if(DEFINED ivshmem_changes_vector)
  list(APPEND QEMU_EXTRA_FLAGS
       -global ivshmem-flat.changes-vector=${ivshmem_changes_vector})
endif()

if(NOT CONFIG_IVSHMEM_FLAT_QEMU_INTC STREQUAL "")
  string(APPEND ivshmem_device ",x-bus-address-iomem=${ivshmem_registers}")
  string(APPEND ivshmem_device ",x-bus-address-shmem=${ivshmem_shmem}")
  if(ivshmem_vectors)
    # The input is the first cell of each interrupt.
    math(EXPR ivshmem_stride "${ivshmem_cells} / ${ivshmem_vectors}")
    math(EXPR ivshmem_last "${ivshmem_vectors} - 1")
    foreach(vector RANGE ${ivshmem_last})
      math(EXPR cell "${vector} * ${ivshmem_stride}")
      list(GET ivshmem_interrupts ${cell} input)
      string(APPEND ivshmem_device ",sysbus-irq[${vector}]="
             "${CONFIG_IVSHMEM_FLAT_QEMU_INTC}/unnamed-gpio-in[${input}]")
    endforeach()
  endif()
endif()

if(NOT CONFIG_IVSHMEM_FLAT_QEMU_MACHINE STREQUAL "")
  list(APPEND QEMU_EXTRA_FLAGS
       -machine ${CONFIG_IVSHMEM_FLAT_QEMU_MACHINE},ivshmem-chardev=ivshmem
       -global ivshmem-flat.shmem-size=${ivshmem_size})
else()
  list(APPEND QEMU_EXTRA_FLAGS -device '${ivshmem_device}')
endif()
