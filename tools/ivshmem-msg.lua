-- Wireshark's view of what tools/sniff --pcap writes
--
-- Copyright (c) 2026 The ivshmem-flat authors
--
-- SPDX-License-Identifier: MIT
--
--     tshark -X lua_script:tools/ivshmem-msg.lua -r FILE
--
-- A packet of LINKTYPE_USER0 is 8 bytes of tools/sniff's own, see Pcap there,
-- and a message as it stands in a ring, see guest/ivshmem_msg.h.

local message = Proto("ivshmem", "ivshmem message layer")
local f = {
    from_slot = ProtoField.uint8("ivshmem.from_slot", "From slot"),
    to_slot = ProtoField.uint8("ivshmem.to_slot", "To slot"),
    no_time = ProtoField.bool("ivshmem.no_time", "Of a dump: no time", 16,
                              nil, 0x0001),
    from_id = ProtoField.uint16("ivshmem.from_id", "From id"),
    to_id = ProtoField.uint16("ivshmem.to_id", "To id"),
    length = ProtoField.uint32("ivshmem.length", "Length of the payload"),
    sequence = ProtoField.uint32("ivshmem.sequence", "Sequence"),
    type = ProtoField.uint32("ivshmem.type", "Type", base.HEX),
    crc = ProtoField.uint32("ivshmem.crc", "CRC, or 0", base.HEX),
    payload = ProtoField.bytes("ivshmem.payload", "Payload"),
}
message.fields = f
local cut = ProtoExpert.new("ivshmem.cut",
                            "Another length than the header says",
                            expert.group.MALFORMED, expert.severity.ERROR)
message.experts = { cut }

local BEFORE = 8
local HEADER = BEFORE + 16

function message.dissector(buffer, packet, tree)
    if buffer:len() < HEADER then
        return 0
    end
    packet.cols.protocol = "ivshmem"
    packet.cols.src = "id " .. buffer(4, 2):le_uint()
    packet.cols.dst = "id " .. buffer(6, 2):le_uint()
    local length = buffer(8, 4):le_uint()
    local sub = tree:add(message, buffer())
    sub:add_le(f.from_slot, buffer(0, 1))
    sub:add_le(f.to_slot, buffer(1, 1))
    sub:add_le(f.no_time, buffer(2, 2))
    sub:add_le(f.from_id, buffer(4, 2))
    sub:add_le(f.to_id, buffer(6, 2))
    sub:add_le(f.length, buffer(8, 4))
    sub:add_le(f.sequence, buffer(12, 4))
    sub:add_le(f.type, buffer(16, 4))
    sub:add_le(f.crc, buffer(20, 4))
    if buffer:len() > HEADER then
        sub:add(f.payload, buffer(HEADER))
    end
    if buffer:len() ~= HEADER + length then
        sub:add_proto_expert_info(cut)
    end
    packet.cols.info = string.format("#%d, type 0x%x, %d bytes",
        buffer(12, 4):le_uint(), buffer(16, 4):le_uint(), length)
    return buffer:len()
end

DissectorTable.get("wtap_encap"):add(wtap.USER0, message)
